"""A web server for one file, which cuts answers where the test says and writes down who asked."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """content: what it serves, which may become another. asked: the `Range` of each request."""

    def __init__(
        self, content: bytes, *, ranges: bool = True, listener: socket.socket | None = None
    ) -> None:
        """listener: where it listens; else on a port that is free."""
        self.content, self.ranges = content, ranges
        self.cuts: list[int] = []
        """For each of the next answers, after how many bytes it is cut."""

        self.held_at: int | None = None
        """After so many bytes of an answer it says nothing more until `go_on` is set."""

        self.holds, self.go_on = threading.Event(), threading.Event()
        self.asked: list[str | None] = []
        self.conditions: list[str | None] = []
        own = listener is None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), own)
        self._server.daemon_threads = True
        if listener is not None:
            self._server.socket.close()
            self._server.socket = listener
            self._server.server_address = listener.getsockname()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/edge-2.0.0.tar"

    def __enter__(self) -> RangeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def tag(self) -> str:
        return f'"{hash(self.content):x}"'

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
                server.asked.append(asked)
                server.conditions.append(condition)
                content, start = server.content, 0
                if asked and server.ranges and condition in (None, server.tag):
                    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
                    self.send_response(206)
                    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    self.send_header("Content-Range", span)
                else:
                    self.send_response(200)
                self.send_header("ETag", server.tag)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                cut = server.cuts.pop(0) if server.cuts else len(content)
                with suppress(OSError):  # who asked has seen enough
                    if server.held_at is not None and cut > server.held_at:
                        self.wfile.write(content[start : start + server.held_at])
                        server.holds.set()
                        server.go_on.wait()
                        start += server.held_at
                    self.wfile.write(memoryview(content)[start : start + cut])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler
