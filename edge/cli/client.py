"""The running daemon as the commands see it: facts, and streamed answers.

Speaks the HTTP API like any other program. Everything that goes wrong comes out as an `EdgeError`;
an answer that was cut is an error, however much of it arrived.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from edge import errors
from edge.access.certs import Certificates
from edge.access.own import own_token
from edge.cli.daemon_status import Status
from edge.config.place import state_dir
from edge.config.tree import is_loopback
from edge.errors import ConfigError, EdgeError

CONNECT_SECONDS = 5.0
# A long prompt on a slow board takes minutes to its first token; longer silence is a fault.
SILENCE_SECONDS = 600.0

T = TypeVar("T")


class Unreachable(EdgeError):
    """Nothing answers at the daemon's address."""

    code = "unreachable"


class ForeignAnswer(EdgeError):
    """Something answers that is not this daemon, or not one of our version."""

    code = "foreign_answer"


class CutAnswer(EdgeError):
    """The stream ended before the answer did."""

    code = "cut_answer"


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class Timings(msgspec.Struct):
    """llama-server's speed report, as far as the terminal shows it."""

    predicted_per_second: float | None = None


class Fault(msgspec.Struct):
    """The error object of the API."""

    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None


class Chunk(msgspec.Struct):
    """One event of a streamed chat completion, or an error in its place."""

    choices: list[Choice] = []
    usage: Usage | None = None
    timings: Timings | None = None
    error: Fault | None = None


class Client:
    """A connection to the daemon at `url`. Close it, or use it as a context manager."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._http = httpx.Client(
                base_url=url,
                headers=_credentials(url),
                verify=_trusted(url),
                timeout=httpx.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS),
                # A proxy for the internet must not get the requests to this very machine.
                trust_env=not is_loopback(urlsplit(url).hostname or ""),
            )
        except httpx.InvalidURL as error:
            raise ConfigError(
                f"{url} is not an address: {error}", hint="correct http.host, or --url"
            ) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def healthy(self) -> bool:
        """True when `/health` answers; any failure is False."""
        try:
            return self._http.get("/health", timeout=CONNECT_SECONDS).is_success
        except httpx.HTTPError:
            return False

    def facts(self) -> Any:
        """The daemon's status as it sent it."""
        return self.call("GET", "/admin/v1/status")

    def status(self) -> Status:
        return self.shaped(self.facts(), Status)

    def call(self, method: str, path: str, body: Any = None, **parameters: str | int) -> Any:
        """The JSON that a route answers with, as it was sent. body: goes there as JSON."""
        with self._failures():
            response = self._http.request(
                method, path, params=parameters, json=body, timeout=CONNECT_SECONDS
            )
        if not response.is_success:
            raise self._refusal(response)
        try:
            return msgspec.json.decode(response.content)
        except msgspec.MsgspecError:
            raise self._foreign("something that is not JSON") from None

    def shaped(self, facts: Any, shape: type[T]) -> T:
        """What was sent, as the struct it should be."""
        try:
            return msgspec.convert(facts, shape)
        except msgspec.ValidationError as error:
            raise self._foreign(f"facts that cannot be read: {error}") from None

    def chat(self, body: dict[str, Any]) -> Generator[Chunk, None, None]:
        """The chunks of a streamed `/v1/chat/completions`; ends only where `[DONE]` was sent.

        Raises `CutAnswer` when the stream ends in any other way, and the daemon's own error where
        it sends one, before the answer or in the middle of it.
        """
        request = self._http.build_request("POST", "/v1/chat/completions", json=body)
        with self._failures():
            response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                with self._failures():
                    response.read()
                raise self._refusal(response)
            yield from self._chunks(response)
        finally:
            response.close()

    def _chunks(self, response: httpx.Response) -> Iterator[Chunk]:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise self._foreign("something that is no event stream")
        event = b""
        try:
            for line in _lines(response):
                field, _, value = line.partition(b":")
                value = value.strip()
                if field == b"event":
                    event = value
                elif field == b"data":
                    if value == b"[DONE]":
                        return
                    yield self._chunk(event, value)
                elif not line:
                    event = b""
        except httpx.HTTPError as error:
            raise _cut(str(error)) from None
        raise _cut("the stream ended without [DONE]")

    def _chunk(self, event: bytes, data: bytes) -> Chunk:
        try:
            chunk = msgspec.json.decode(data, type=Chunk)
            # OpenAI wraps the error; a bare one under `event: error` means the same.
            if event == b"error" and chunk.error is None:
                chunk.error = msgspec.json.decode(data, type=Fault)
        except msgspec.MsgspecError as error:
            raise self._foreign(f"an event that cannot be read: {error}") from None
        if chunk.error is not None:
            raise _raised(chunk.error)
        return chunk

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what httpx raises outside of a stream into our errors."""
        try:
            yield
        except httpx.RequestError as error:
            slow = isinstance(error, httpx.ReadTimeout)
            raise Unreachable(
                f"no answer from {self.url}" + (" in time" if slow else ""),
                hint="edge serve, or name another daemon with --url",
            ) from None

    def _refusal(self, response: httpx.Response) -> EdgeError:
        try:
            fault = msgspec.json.decode(response.content, type=Chunk).error
        except msgspec.MsgspecError:
            fault = None
        return _raised(fault) if fault else self._foreign(f"HTTP status {response.status_code}")

    def _foreign(self, what: str) -> ForeignAnswer:
        return ForeignAnswer(
            f"{self.url} answered with {what}",
            hint="edge status and edge doctor tell what listens there",
        )


def _credentials(url: str) -> dict[str, str]:
    """$EDGE_API_KEY; for a daemon on this machine also what it wrote for us."""
    token = os.environ.get("EDGE_API_KEY")
    if token is None and is_loopback(urlsplit(url).hostname or ""):
        token = own_token(state_dir() / "keys")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _trusted(url: str) -> ssl.SSLContext | bool:
    """For a daemon on this machine its own authority, else those of the system."""
    authority = Certificates(state_dir() / "certs").authority
    here = is_loopback(urlsplit(url).hostname or "")
    if not (here and url.startswith("https:") and authority.exists()):
        return True
    return ssl.create_default_context(cafile=str(authority))


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """The complete lines of a stream.

    Not `iter_lines`: it also splits at U+2028 and U+0085, which JSON may hold as they are.
    """
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)


def _cut(why: str) -> CutAnswer:
    return CutAnswer(
        f"the answer was cut: {why}",
        hint="ask again; `edge status` tells whether the model restarted",
    )


# What to type next, for the refusals that a person at a terminal meets most.
_HINTS = {
    "model_not_found": "edge status shows the models that are served",
    "loading": "wait until `edge status` shows the model as ready",
    "overloaded": "ask again in a moment",
    "job_not_found": "edge jobs list",
    "invalid_api_key": "put a key with --admin into EDGE_API_KEY, or ask as root or the user edge",
    "switch_running": "edge status shows how far it is",
    "context_length_exceeded": "shorten the prompt, or start a new conversation",
}


def _raised(fault: Fault) -> EdgeError:
    code = fault.code or fault.type or ""
    error = errors.from_code(code, fault.message, fault.param)
    error.hint = _HINTS.get(code)
    return error
