"""The server that is measured: what it is, and one question asked of it.

Only a server that answers `/admin/v1/status` as this project's daemon does gets fields that are
not OpenAI's; others refuse what they do not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from edge.cli.client import CONNECT_SECONDS, SILENCE_SECONDS, ForeignAnswer, Unreachable
from edge.cli.daemon_status import Status
from edge.cli.load.answer import Answer, Clock, NoAnswer, Reader, failure
from edge.cli.load.workloads import Question
from edge.config.tree import is_loopback
from edge.errors import ConfigError

# Below what common servers keep idle connections for, or a question could meet one that closes.
IDLE_SECONDS = 2.0
MOST_OF_A_REFUSAL = 65536
"""Bytes that are read of an error's body."""

REFUSAL_SECONDS = 2.0
"""How long they are waited for: some servers never end one."""

LONGEST_MESSAGE = 500


class Entry(msgspec.Struct):
    id: str


class Listing(msgspec.Struct):
    """`GET /v1/models`."""

    data: list[Entry]


class Server:
    """An OpenAI-compatible server. `version` is that of this project's daemon, else None.

    cache: whether the daemon may answer from its cache of whole answers.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        model: str | None = None,
        key: str | None = None,
        cache: bool = False,
    ) -> None:
        self._http = http
        self._key = key
        self.url = url
        # As OpenAI's clients take it, or the address alone, as the other commands do.
        self._base = url if urlsplit(url).path.strip("/") else f"{url}/v1"
        self.model = model
        self.version: str | None = None
        self._cache = cache

    async def recognise(self) -> None:
        """Find out whether it is ours, and which model to ask for.

        Raises `Unreachable`, and `ForeignAnswer` where a model has to be named and none is.
        """
        try:
            page = await self._get(self._base.removesuffix("/v1") + "/admin/v1/status")
            if page.is_success:
                self.version = _version(page.content)
            if self.version is None and self.model is None:
                page = await self._get(f"{self._base}/models")
                self.model = _first_model(page.content) if page.is_success else None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"no answer from {self.url}: {error or type(error).__name__}",
                hint="edge serve, or name another server with --url",
            ) from None
        if self.version is None and self.model is None:
            raise ForeignAnswer(
                f"{self.url} does not say which models it has (HTTP status {page.status_code})",
                hint="name one with --model; --api-key-file gives a key",
            )

    async def ask(self, question: Question, intended: float, clock: Clock) -> Answer:
        """Never raises for what the server does: that is in the answer."""
        answer = Answer(question.group, intended, sent=clock())
        reader = Reader(answer, clock)
        try:
            async with self._response(self.body(question)) as response:
                await _read(response, reader)
            reader.finish(question.structured)
        except NoAnswer as error:
            answer.error, answer.message = error.code, self._harmless(str(error))
        except httpx.HTTPError as error:
            answer.error = _code(error)
            answer.message = str(error) or type(error).__name__
        if answer.error is not None or not answer.streamed:
            answer.ended = clock()
        return answer

    @asynccontextmanager
    async def _response(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """A server may close a kept connection at any moment, and so under a request that is on
        its way (RFC 9112, section 9.5): one without a word of an answer is sent once more."""
        request = self._http.build_request("POST", f"{self._base}/chat/completions", json=body)
        try:
            response = await self._http.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def body(self, question: Question) -> dict[str, Any]:
        ours = {} if self._cache else {"cache": False}
        ours |= question.edge
        body = {
            "messages": question.messages,
            "max_tokens": question.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **question.fields,
        }
        if self.model is not None:
            body["model"] = self.model
        if self.version is not None and ours:
            body["edge"] = ours
        return body

    def _harmless(self, message: str) -> str:
        """A stranger's words: not endless, and without the key, which some servers echo."""
        if self._key:
            message = message.replace(self._key, "***")
        return message[:LONGEST_MESSAGE]

    async def _get(self, address: str) -> httpx.Response:
        return await self._http.get(address, timeout=CONNECT_SECONDS)


@asynccontextmanager
async def connect(
    url: str, model: str | None, key: str | None, cache: bool
) -> AsyncIterator[Server]:
    """Raises `ConfigError` for an address that cannot be one."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "edge-bench"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url} is not an address: {error}", hint="correct --url") from None
    async with httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
        # A proxy for the internet must not get the requests to this very machine.
        trust_env=not is_loopback(urlsplit(url).hostname or ""),
    ) as http:
        yield Server(http, url, model, key, cache)


async def _read(response: httpx.Response, reader: Reader) -> None:
    if response.status_code != 200:
        try:
            said = await asyncio.wait_for(_some(response), REFUSAL_SECONDS)
        except asyncio.TimeoutError:
            said = b""
        raise failure(said, f"http_{response.status_code}")
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        async for some in response.aiter_bytes():
            reader.feed(some)
    elif kind.startswith("application/json"):
        reader.whole(await response.aread())
    else:
        raise NoAnswer("bad_answer", f"neither a stream nor JSON, but {kind or 'untyped bytes'}")


async def _some(response: httpx.Response) -> bytes:
    body = b""
    async for some in response.aiter_bytes():
        body += some
        if len(body) > MOST_OF_A_REFUSAL:
            break
    return body


def _code(error: httpx.HTTPError) -> str:
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return "unreachable"
    return "timeout" if isinstance(error, httpx.TimeoutException) else "cut"


def _version(page: bytes) -> str | None:
    try:
        return msgspec.json.decode(page, type=Status).version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _first_model(page: bytes) -> str | None:
    try:
        models = msgspec.json.decode(page, type=Listing).data
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return models[0].id if models else None
