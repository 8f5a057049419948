"""Connections to one upstream, each lent to one call at a time.

Not shared between calls, though HTTP/2 could: giving up a call has to be seen by the server at
once, and httpx leaves an HTTP/2 stream that is given up open (no RST_STREAM), its server working
and its connection a little more blocked each time. A connection that did not carry its call to
the end is closed; nothing that is broken is ever lent again. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from edge import __version__
from edge.config import answering
from edge.errors import UpstreamError

MOST_IDLE = 16

IDLE_SECONDS = 60.0
"""How long a connection is kept for the next call: a handshake over a mobile network is dear."""

# A peer that is gone without a word (a mobile network, a NAT that forgot) is found out in a minute.
KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]


class Lent:
    """One connection (or the means to make it). reusable: set when its call came to its end."""

    def __init__(self, client: httpx.AsyncClient, born: int) -> None:
        self.client = client
        self.born = born
        self.reusable = False
        self._socket: Any = None

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: bytes | None = None,
        connected: Callable[[], None] | None = None,
    ) -> httpx.Request:
        """connected: is called when the connection is there, and the request begins to go out."""

        # https://www.encode.io/httpcore/extensions/#trace
        async def trace(event: str, info: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                self._socket = info["return_value"]
            if connected is None or not event.endswith("send_request_headers.started"):
                return
            if info["request"].method == method.encode():  # a proxy gets a CONNECT first
                connected()

        return self.client.build_request(
            method, url, headers=headers, content=content, extensions={"trace": trace}
        )

    async def close(self) -> None:
        await self.client.aclose()
        # Given up in the middle of a TLS handshake, httpcore forgets its socket unclosed.
        if self._socket is not None:
            await self._socket.aclose()


class Connections:
    """Makes, keeps and closes them."""

    def __init__(self, settings: answering.Upstream) -> None:
        self.settings = settings
        self._idle: list[Lent] = []
        self._context: ssl.SSLContext | None = None
        self._age = 0
        # At DEBUG it writes every header down, and with them the key.
        logging.getLogger("hpack").setLevel(logging.INFO)

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[Lent, None]:
        """Raises `UpstreamError` when `ca_file` cannot be used."""
        if self._context is None:
            # Reading all of a system's authorities takes a tenth of a second and more.
            self._context = await asyncio.to_thread(self._trust)
        lent = self._idle.pop() if self._idle else Lent(self._make(self._context), self._age)
        lent.reusable = False
        try:
            yield lent
        finally:
            if lent.reusable and lent.born == self._age and len(self._idle) < MOST_IDLE:
                self._idle.append(lent)
            else:
                await lent.close()

    async def forget(self) -> None:
        """Close what is idle, and lend nothing again that is out now: the link was lost."""
        self._age += 1
        idle, self._idle = self._idle, []
        for lent in idle:
            await lent.close()

    def _trust(self) -> ssl.SSLContext:
        ca_file = self.settings.ca_file
        if not (self.settings.base_url + (self.settings.proxy or "")).count("https://"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise UpstreamError(
                f"the certificate authorities in {ca_file} cannot be used: {error}",
                param="ca_file",
                hint="name a file with PEM certificates that the service's user may read",
            ) from None

    def _make(self, context: ssl.SSLContext) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(
            verify=context,
            http2=True,
            trust_env=False,
            proxy=self.settings.proxy,
            limits=httpx.Limits(max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS),
            socket_options=KEEP_ALIVE,
        )
        # The time limits are kept by whoever makes the call.
        return httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=None,
            headers={"User-Agent": f"edge/{__version__}", "Accept-Encoding": "gzip"},
        )
