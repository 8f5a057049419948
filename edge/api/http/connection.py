"""Bounds on a connection that the web framework above it cannot see.

A client that says nothing, sends headers without end, goes on sending after its answer, or does
not take its data is dropped after a while; the others do not notice. Connections for which there is
no room (`crowd.py`) are closed at once. All of it by timers of the event loop, none by threads.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from edge.api.http.crowd import Crowd
from edge.api.http.errors import error_json
from edge.api.http.nuisances import HOLD_SECONDS
from edge.errors import InvalidRequest

logger = logging.getLogger(__name__)
logger.setLevel(logging.ERROR)  # uvicorn warns of each request that is none: they are counted

HEADER_SECONDS = 10.0
"""From the connection, or the first byte of a later request, to the end of the headers. A request
that waits behind the answer to the one before it has no such bound: we have stopped reading."""

HEADER_BYTES = 32 * 1024
"""Most bytes on end that are no body: headers, the trailers and framing of a chunked body."""

STALL_SECONDS = 30.0
"""How long a client may leave its full receive buffer untouched while it is sent data."""

LINGER_SECONDS = 5.0
"""Time to read an answer that came before the end of the request; a connection that is closed
with unread data in it may lose the answer (RFC 9112, section 9.6)."""


MOST_PIPELINED = 8
"""Requests behind the one that is being answered up to which we go on reading, because only who
reads notices that a client has left."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol with the bounds above. `bounded` makes a class that has its crowd."""

    crowd: ClassVar[Crowd]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = logger
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._closing_timer: asyncio.TimerHandle | None = None
        self._bytes_without_body = self._header_bytes = 0
        self._in_headers = False
        self._deaf = False
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.crowd.join(self, address):
            transport.abort()
        elif self.scheme == "http" and not self.crowd.nuisances.hears(address):
            self._deaf = True
            transport.pause_reading()
            self._header_timer = self.loop.call_later(HOLD_SECONDS, self.drop, "nuisance")
        else:
            self._start_header_timer()

    @property
    def idle(self) -> bool:
        """No request that has all its headers is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self, reason: str) -> None:
        """End it at once. The crowd has room from now on, and not only when the end was seen."""
        self.crowd.leave(self)
        self.crowd.count(reason)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.leave(self)
        for timer in (self._header_timer, self._stall_timer, self._closing_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        # uvicorn tells the last request only, which may still be waiting behind this one.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._bytes_without_body += len(data)
        super().data_received(data)
        if self._bytes_without_body > HEADER_BYTES and not self._deaf:
            self.send_400_response("Request headers are too large")

    def send_400_response(self, msg: str) -> None:
        """In the shape of all errors; never into the middle of an answer that is on its way."""
        if self._header_bytes > HEADER_BYTES:
            msg = "Request headers are too large"
        if self.cycle is not None and not self.cycle.response_complete:
            self._drop()
            return
        self.crowd.count("invalid")
        if self.client and self.server and self.client[0] != self.server[0]:
            self.crowd.nuisances.refused(self.client[0])
        body = error_json(InvalidRequest(msg))
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        )
        self._hang_up()

    def on_url(self, url: bytes) -> None:
        self._count_header(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(name, value)
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        self._bytes_without_body = self._header_bytes = 0
        self._in_headers = True
        if self.cycle is not None and self.cycle.response_complete:
            self._start_header_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._bytes_without_body = 0
        self._in_headers = False
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle
        elif len(self.pipeline) <= MOST_PIPELINED:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answering = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            self._drop_later(STALL_SECONDS)
        elif self.cycle.response_complete and self.cycle.more_body:
            self._hang_up()
        elif self.cycle.response_complete and self._in_headers:
            self._start_header_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._drop_later(STALL_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self.drop, "stalled")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _count_header(self, *parts: bytes) -> None:
        """All of them may come in one read, so that counting what was read is not enough."""
        self._header_bytes += sum(map(len, parts))
        if self._header_bytes > HEADER_BYTES:
            raise ValueError("the headers are too large")  # which the parser's user hears as 400

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self.drop, "headers")

    def _hang_up(self) -> None:
        """No more of this client's requests: send what there is, and leave it time to read it."""
        self._deaf = True
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():  # TLS has no half of a connection
            self.transport.write_eof()
        self._drop_later(LINGER_SECONDS)

    def _drop_later(self, seconds: float) -> None:
        # Closing waits until the client has taken all data, which may be never.
        if self._closing_timer is None:
            self._closing_timer = self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        self.transport.abort()


def bounded(crowd: Crowd) -> type[BoundedConnection]:
    """A protocol class for uvicorn, which takes classes and no arguments for them."""
    return type("Connection", (BoundedConnection,), {"crowd": crowd})
