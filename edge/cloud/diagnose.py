"""Why a cloud model does not answer: what lies between here and there, tried step by step.

Nothing is sent but a look at the list of models and a request for one token.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Literal

import httpx
import msgspec

from edge.cloud.connections import Connections
from edge.cloud.key import Key, read_key
from edge.cloud.upstream import Upstream
from edge.config import answering
from edge.errors import EdgeError
from edge.metrics import Metrics
from edge.types import ChatPrompt, Message, Request, Sampling

PATIENCE = 5.0
"""Seconds for each step, or `timeouts.connect` where that is more."""

MOST_SKEW = 60.0
"""Seconds between two clocks from which on certificates and deadlines begin to suffer."""

LARGEST_LIST = 4 * 1024 * 1024


class Finding(msgspec.Struct):
    """What one step found. fix: what to do about it, None where nothing has to be done."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    fix: str | None = None


class _Models(msgspec.Struct):
    """The answer to `GET /models`: its status, its `Date`, and the names, None if unknown."""

    status: int
    date: str
    names: list[str] | None


class _Name(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Name]


async def diagnose(name: str, settings: answering.Upstream) -> AsyncGenerator[Finding, None]:
    """The findings in order; it ends with the first failure that makes the next step useless."""
    try:
        key = read_key(name, settings)
    except EdgeError as error:
        yield Finding("key", "fail", error.message, error.hint)
        return
    url = httpx.URL(settings.base_url)
    near = httpx.URL(settings.proxy or settings.base_url)
    port = near.port or {"https": 443, "http": 80}.get(near.scheme, 1080)
    patience = max(PATIENCE, settings.timeouts.connect)
    steps = [partial(_name, near.host, port, patience), partial(_tcp, near.host, port, patience)]
    if url.scheme == "https" and settings.proxy is None:
        steps.append(partial(_tls, near.host, port, settings.ca_file, patience))
    for step in steps:
        finding = await step()
        yield finding
        if finding.status == "fail":
            return
    models = await _models(settings, key, patience)
    if isinstance(models, Finding):
        yield models
        return
    yield _clock(models.date, time.time())
    auth = _auth(name, models.status)
    yield auth
    if auth.status == "fail":
        return
    yield _model(name, settings.model or name, models.names)
    yield await _one_token(name, settings)


async def _name(host: str, port: int, patience: float) -> Finding:
    try:
        look_up = asyncio.get_running_loop().getaddrinfo(host, port)
        found = await asyncio.wait_for(look_up, patience)
    except asyncio.TimeoutError:
        why = f"no answer within {patience:g} s"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        return Finding("name", "ok", f"{host} is {', '.join(addresses[:4])}")
    fix = "check the network and its DNS server (resolvectl status), and the spelling of base_url"
    return Finding("name", "fail", f"{host} cannot be looked up: {why}", fix)


async def _tcp(host: str, port: int, patience: float) -> Finding:
    began = time.monotonic()
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), patience)
    except asyncio.TimeoutError:
        why = f"no answer within {patience:g} s"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        writer.close()
        return Finding("tcp", "ok", f"connected in {(time.monotonic() - began) * 1000:.0f} ms")
    fix = "check the firewall, and whether a proxy is needed (upstreams.NAME.proxy)"
    return Finding("tcp", "fail", f"port {port} of {host} cannot be reached: {why}", fix)


async def _tls(host: str, port: int, ca_file: str | None, patience: float) -> Finding:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        fix = "name a file with PEM certificates in upstreams.NAME.ca_file"
        return Finding("tls", "fail", f"{ca_file} cannot be used: {error}", fix)
    try:
        connecting = asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        _, writer = await asyncio.wait_for(connecting, patience)
    except ssl.SSLCertVerificationError as error:
        fix = (
            "check this machine's clock, and name the server's authority in upstreams.NAME.ca_file"
        )
        return Finding("tls", "fail", f"not believed: {error.verify_message}", fix)
    except asyncio.TimeoutError:
        return Finding("tls", "fail", f"no answer within {patience:g} s", "is it an HTTPS port?")
    except OSError as error:
        return Finding("tls", "fail", str(error), "is it an HTTPS port?")
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    until = str(tls.getpeercert()["notAfter"])  # type: ignore[index]
    writer.close()
    return Finding("tls", "ok", f"{tls.version()}, certificate good until {until}")


async def _models(settings: answering.Upstream, key: Key, patience: float) -> _Models | Finding:
    connections = Connections(settings)
    try:
        return await asyncio.wait_for(_get_models(connections, settings, key), patience)
    except asyncio.TimeoutError:
        why = f"no answer within {patience:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = str(error) or type(error).__name__
    except EdgeError as error:
        why = error.message
    finally:
        await connections.forget()
    return Finding("http", "fail", why, "check base_url and proxy: is it an HTTP server?")


async def _get_models(connections: Connections, settings: answering.Upstream, key: Key) -> _Models:
    async with connections.lend() as lent:
        url = settings.base_url.rstrip("/") + "/models"
        response = await lent.client.send(lent.request("GET", url, key.headers()), stream=True)
        body = bytearray()
        try:
            async for some in response.aiter_bytes():
                body += some
                if len(body) > LARGEST_LIST:
                    break
        finally:
            await response.aclose()
    try:
        names = [model.id for model in msgspec.json.decode(body, type=_List).data]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Models(response.status_code, response.headers.get("date", ""), None)
    return _Models(response.status_code, response.headers.get("date", ""), names)


def _clock(date: str, now: float) -> Finding:
    try:
        skew = now - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError):
        return Finding("clock", "ok", "the server does not tell its time")
    if abs(skew) <= MOST_SKEW:
        return Finding("clock", "ok", "agrees with the server's")
    which = "ahead of" if skew > 0 else "behind"
    fix = "let the time be set from the network: timedatectl set-ntp true"
    return Finding("clock", "warn", f"{abs(skew):.0f} s {which} the server's", fix)


def _auth(name: str, status: int) -> Finding:
    if status in (401, 403):
        text = f"the key is not accepted ({status})"
        return Finding("key", "fail", text, f"check the key of upstreams.{name}")
    if status >= 500:
        return Finding("key", "warn", f"the server is in trouble ({status})", "try again later")
    if status != 200:
        text = f"unknown: the server has no list of models ({status})"
        return Finding("key", "warn", text, f"should upstreams.{name}.base_url end in /v1?")
    return Finding("key", "ok", "accepted")


def _model(name: str, model: str, names: list[str] | None) -> Finding:
    if names is None:
        return Finding("model", "warn", f"whether there is a `{model}` is not told")
    if model in names:
        return Finding("model", "ok", f"`{model}` is there")
    some = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
    fix = f"set upstreams.{name}.model to one of them"
    return Finding("model", "warn", f"no `{model}` among {len(names)} models: {some}", fix)


async def _one_token(name: str, settings: answering.Upstream) -> Finding:
    upstream = Upstream(name, settings, Metrics())
    request = Request(
        id="doctor",
        prompts=[ChatPrompt([Message("user", "Say yes.")])],
        sampling=Sampling(),
        max_tokens=1,
    )
    began = time.monotonic()
    try:
        async with aclosing(upstream.stream(request, began)) as source:
            async for _ in source:
                pass
    except EdgeError as error:
        return Finding("answer", "fail", error.message, error.hint)
    finally:
        await upstream.stop()
    return Finding("answer", "ok", f"one token in {time.monotonic() - began:.2f} s")
