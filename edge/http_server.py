"""The HTTP server on the sockets of this daemon, bound here or handed over by systemd.

Owned by the daemon, which decides when it stops. Connections that come while it stops wait in the
backlog of a socket that systemd holds, for the daemon that comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator

import uvicorn

from edge import __version__
from edge.api.http.connection import bounded
from edge.api.http.handshake import encrypted
from edge.appliance import Appliance
from edge.config.tree import is_loopback
from edge.listeners import Listeners

logger = logging.getLogger("edge")

ARRIVAL_SECONDS = 0.2
"""From a connection to its first request."""

LEAST_GRACE = 2
"""Seconds for answers that are made and not yet taken, when the time to drain is over."""


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: whoever runs it decides when it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer(Server):
    """The appliance's. `run` it in a task."""

    def __init__(self, appliance: Appliance, listeners: Listeners) -> None:
        self._appliance = appliance
        self._listeners = listeners
        app = appliance.http()
        connection = bounded(app.state.crowd)
        tls = appliance.tls
        config = uvicorn.Config(
            app,
            # uvicorn's own TLS makes a context of file names, which nobody can renew.
            http=connection if tls is None else encrypted(connection, tls.context),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=LEAST_GRACE,
            server_header=False,
        )
        super().__init__(config)

    async def run(self) -> None:  # type: ignore[override]
        await self.serve(sockets=self._listeners.sockets)

    def announce(self) -> None:
        """Say where it listens, and who can reach that."""
        scheme = "http" if self._appliance.tls is None else "https"
        gate = self._appliance.gate
        for host, port in self._listeners.addresses:
            shown = f"[{host}]" if ":" in host else host
            logger.info("edge %s listens on %s://%s:%d", __version__, scheme, shown, port)
            if "http" not in gate.required and not is_loopback(host):
                logger.warning(
                    "anyone who reaches %s can use the models: auth.required is false", host
                )
        if gate.required and gate.keyring.empty:
            logger.warning("there are no keys yet, so all requests are refused: edge keys add NAME")

    async def release(self) -> None:
        """Leave all that comes from now on to the next daemon, where the sockets outlive this one.
        Clients without a request under way have to connect anew."""
        if not self._listeners.inherited or not self.started:
            return
        for server in self.servers:
            server.close()
        # Who was let in a moment ago has mostly sent a request, which is answered here.
        await asyncio.sleep(ARRIVAL_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def finish(self, seconds: float) -> None:
        """End `run`; answers that are made may still be taken for so long."""
        self.config.timeout_graceful_shutdown = max(LEAST_GRACE, math.ceil(seconds))
        self.should_exit = True
