"""Bounds on a connection that the web framework above it cannot see.

A client that says nothing, sends headers without end, or does not take its data is dropped after
a while; the others do not notice. Connections beyond a number are closed at once. All of it by
timers of the event loop, none by threads.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 10.0
"""From the connection, or the end of the last request, to the end of the next headers."""

HEADER_BYTES = 32 * 1024

STALL_SECONDS = 30.0
"""How long a client may leave its full receive buffer untouched while it is sent data."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol with the bounds above. Make a class with `bounded` to set a number."""

    max_connections = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._header_bytes: int | None = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._drop)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._header_bytes is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes is not None and self._header_bytes > HEADER_BYTES:
            self.send_400_response("Request headers are too large")

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._header_bytes = None
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self._drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _drop(self) -> None:
        # Closing would first wait for the unsent data to be taken, which is the point.
        self.transport.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._header_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._stall_timer = None


def bounded(max_connections: int) -> type[BoundedConnection]:
    """A protocol class for uvicorn, which takes classes and no arguments for them."""
    return type("Connection", (BoundedConnection,), {"max_connections": max_connections})
