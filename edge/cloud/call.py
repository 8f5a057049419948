"""One HTTP call for one answer, from connecting to the answer's end.

It reads and reports; whoever runs it as a task hears of pieces, the end, or a failure, and gives
it up by cancelling the task, which closes the connection.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable

import httpx
import msgspec

from edge.cloud.answer import Answer, Piece
from edge.cloud.body import Order
from edge.cloud.connections import Connections, Lent
from edge.cloud.failure import (
    CallFailed,
    Failure,
    Told,
    garbage,
    of_exception,
    of_limit,
    of_status,
    told,
)
from edge.cloud.key import Key
from edge.cloud.limit import Limit
from edge.cloud.sse import EventParser, TooLong
from edge.config import answering
from edge.errors import EdgeError, InternalError
from edge.types import Delta, Finished, Usage

logger = logging.getLogger(__name__)

LINGER = 1.0
"""Seconds after the finish_reason in which the usage and the stream's end may still come."""

LINGER_AFTER_DONE = 0.1

ERROR_SECONDS = 1.0
"""Time for the body of an error; its status is enough."""

LARGEST_ERROR = 64 * 1024
LARGEST_ANSWER = 16 * 1024 * 1024
LARGEST_STREAM = 64 * 1024 * 1024
"""Bytes."""

Heard = Delta | Finished | Failure


class Call:
    """Run `run` as a task. hear: gets the answer's number with pieces of it, and at last, once,
    with `Finished` or a `Failure`. received: bytes that came over the line, known at the end.
    """

    def __init__(
        self,
        name: str,
        settings: answering.Upstream,
        order: Order,
        key: Key,
        hear: Callable[[int, Heard], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self.order = order
        self.key = key
        self.received = 0
        self._hear = hear
        self._answer = Answer(name, key, order.tools)
        self._limit = Limit(self._passed)
        self._connecting = True
        self._ended = False
        self._began = time.monotonic()
        self._first_at: float | None = None
        self._refusal: httpx.Response | None = None
        self._body = bytearray()

    async def run(self, connections: Connections) -> None:
        """Never raises but when cancelled."""
        self._limit.set("connect", self.settings.timeouts.connect)
        try:
            async with connections.lend() as lent:
                await self._exchange(lent)
            self._finish()
        except CallFailed as failed:
            self._fail(failed.failure)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, EOFError) as error:
            self._fail(of_exception(self.name, error, connecting=self._connecting))
        except TooLong as error:
            self._fail(garbage(self.name, str(error)))
        except EdgeError as error:
            self._fail(Failure(error, "configuration", "unknown", reached=None))
        except Exception:
            logger.exception("upstream %s", self.name)
            fault = InternalError("a call of a cloud model failed; the log tells more")
            self._fail(Failure(fault, "internal_error", "unknown", reached=None))
        finally:
            self._limit.clear()

    async def _exchange(self, lent: Lent) -> None:
        url = self.settings.base_url.rstrip("/") + self.order.path
        headers = {**self.order.headers, **self.key.headers()}
        request = lent.request("POST", url, headers, self.order.body, self._connected)
        response = await lent.client.send(request, stream=True)
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200:
                lent.reusable = await self._read_error(response)
                raise CallFailed(self._refused(response))
            if kind == "text/event-stream":
                await self._read_stream(response)
            elif kind == "application/json":
                await self._read_whole(response)
            else:
                raise CallFailed(garbage(self.name, f"`{kind[:60] or 'no content type'}`"))
            lent.reusable = True
        finally:
            self.received += response.num_bytes_downloaded
            await response.aclose()

    def _connected(self) -> None:
        self._connecting = False
        self._limit.set("first_token", self.settings.timeouts.first_token)

    async def _read_stream(self, response: httpx.Response) -> None:
        parser, size = EventParser(), 0
        async for some in response.aiter_bytes():
            size += len(some)
            if size > LARGEST_STREAM:
                raise CallFailed(garbage(self.name, f"more than {LARGEST_STREAM} bytes"))
            self._take(parser.feed(some))
        self._take(parser.end())
        self._answer.end()

    def _take(self, events: list[bytes]) -> None:
        for data in events:
            finished = self._answer.reason is not None
            try:
                piece = self._answer.event(data)
            except CallFailed:
                if finished:  # the answer is complete; what follows it does not matter
                    continue
                raise
            if piece is not None:
                self._tell(piece)
            if self._answer.done:
                self._limit.set("end", LINGER_AFTER_DONE)
            elif self._answer.reason is not None and not finished:
                self._limit.set("end", LINGER)

    async def _read_whole(self, response: httpx.Response) -> None:
        if not await self._read(response, LARGEST_ANSWER):
            raise CallFailed(garbage(self.name, f"more than {LARGEST_ANSWER} bytes"))
        piece = self._answer.whole(bytes(self._body))
        if piece is not None:
            self._tell(piece)

    async def _read_error(self, response: httpx.Response) -> bool:
        """True if it was read to its end."""
        self._refusal = response
        self._limit.set("error", ERROR_SECONDS)
        return await self._read(response, LARGEST_ERROR)

    async def _read(self, response: httpx.Response, most: int) -> bool:
        """False if there was more than `most` bytes."""
        async for some in response.aiter_bytes():
            self._body += some[: most - len(self._body)]
            if len(self._body) == most:
                return False
        return True

    def _refused(self, response: httpx.Response) -> Failure:
        """By its status and what has come of its body, the words made safe to show."""
        try:
            words = told(msgspec.json.decode(self._body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            plain = response.headers.get("content-type", "").startswith("text/plain")
            words = Told(self._body.decode("utf-8", "replace").strip() if plain else "")
        words.message = self.key.mask(words.message)
        return of_status(self.name, response.status_code, words, response.headers)

    def _tell(self, piece: Piece) -> None:
        if self._ended:
            return
        if piece.text or piece.calls:
            if self._first_at is None:
                self._first_at = time.monotonic()
            self._limit.set("stall", self.settings.timeouts.stall)
        delta = Delta(self.order.id, [], piece.text, piece.logprobs, piece.calls)
        self._hear(self.order.index, delta)

    def _passed(self, limit: str, seconds: float) -> None:
        if limit == "end":
            self._finish()
        elif self._refusal is not None:
            self._fail(self._refused(self._refusal))
        else:
            self._fail(of_limit(self.name, limit, seconds))

    def _fail(self, failure: Failure) -> None:
        # Of an answer that has come to its end, only the connection's end can have failed.
        if self._answer.reason is not None:
            self._finish()
        elif not self._ended:
            self._ended = True
            self._hear(self.order.index, failure)

    def _finish(self) -> None:
        if self._ended:
            return
        self._ended = True
        answer, now = self._answer, time.monotonic()
        assert answer.reason is not None
        first = self._first_at or now
        counts = answer.counts
        usage = Usage(
            prompt_tokens=counts.prompt_tokens if counts else 0,
            cached_tokens=counts.cached_tokens if counts else 0,
            completion_tokens=answer.completion_tokens,
            prompt_seconds=first - self._began,
            generation_seconds=now - first,
        )
        self._hear(self.order.index, Finished(self.order.id, answer.reason, usage))
