"""Connections that no two threads share, for one client that many threads ask with.

httpcore's pool closes an idle connection that it may keep no longer after it has looked whether it
is idle; in between another thread may have taken it, whose request then fails with EBADF.
"""

from __future__ import annotations

import threading

import httpx


class ThreadTransport(httpx.BaseTransport):
    """One transport for each thread that asks, made at its first request.

    Without keep-alive, because a connection that the other side is about to close is no good for
    a POST.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[httpx.HTTPTransport] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._of_this_thread().handle_request(request)

    def close(self) -> None:
        for transport in self._all:
            transport.close()

    def _of_this_thread(self) -> httpx.HTTPTransport:
        if not hasattr(self._own, "transport"):
            once = httpx.Limits(max_keepalive_connections=0)
            self._own.transport = httpx.HTTPTransport(verify=False, limits=once)
            self._all.append(self._own.transport)
        transport: httpx.HTTPTransport = self._own.transport
        return transport
