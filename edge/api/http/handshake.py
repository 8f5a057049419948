"""TLS handshakes, which count as connections from their beginning and have a bound on their time.

Where the server's own sockets speak TLS, uvicorn hears of a connection when the handshake is over:
whoever never ends one would take descriptors without a number. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from edge.api.http.connection import BoundedConnection
from edge.api.http.crowd import Crowd
from edge.api.http.nuisances import HOLD_SECONDS

HANDSHAKE_SECONDS = 10.0


class Handshake(asyncio.Protocol):
    """Speaks for a connection until it is encrypted; then `make` makes who speaks HTTP on it."""

    idle = True

    def __init__(
        self, context: ssl.SSLContext, crowd: Crowd, make: Callable[[], BoundedConnection]
    ) -> None:
        self._context = context
        self._crowd = crowd
        self._make = make
        self._early: list[bytes] = []
        self._shaking: Coroutine[Any, Any, Any]
        self._holding: asyncio.TimerHandle | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._crowd.join(self, address):
            transport.abort()
            return
        if not self._crowd.nuisances.hears(address):
            transport.pause_reading()
            loop = asyncio.get_running_loop()
            self._holding = loop.call_later(HOLD_SECONDS, self.drop, "nuisance")
            return
        self._shaking = asyncio.get_running_loop().start_tls(
            transport,
            self,
            self._context,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        self._go_on()

    def drop(self, reason: str) -> None:
        self._crowd.leave(self)
        self._crowd.count(reason)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """What came with the end of the handshake; later data go to HTTP's protocol."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._crowd.leave(self)
        if self._holding is not None:
            self._holding.cancel()

    def _go_on(self, _: object = None) -> None:
        """One step of it. Not as a task, which would begin a moment later: uvloop would have read
        the client's first words by then, and TLS would miss them."""
        try:
            awaited: Any = self._shaking.send(None)
        except StopIteration as end:
            self._hand_over(end.value)
        except (OSError, asyncio.TimeoutError):
            self._crowd.leave(self)
            self._crowd.count("handshake")
            self._transport.abort()
        else:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._go_on)

    def _hand_over(self, secured: Any) -> None:
        self._crowd.leave(self)
        if self._lost:
            return
        connection = self._make()
        secured.set_protocol(connection)
        connection.connection_made(secured)
        for data in self._early:
            connection.data_received(data)


def encrypted(
    connection: type[BoundedConnection], context: ssl.SSLContext
) -> Callable[..., Handshake]:
    """What uvicorn takes for a protocol class."""

    def made(**options: Any) -> Handshake:
        return Handshake(context, connection.crowd, lambda: connection(**options))

    return made
