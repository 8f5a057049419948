"""A real HTTP server that takes reports, or refuses them as it is told."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Post:
    """One batch that came. `lines`: its records."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        text = gzip.decompress(body).decode()
        assert text.endswith("\n")
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]

    @property
    def ids(self) -> list[str]:
        return [line["id"] for line in self.lines]


Answer = tuple[int, dict[str, str]]


class Headquarters(ThreadingHTTPServer):
    """`judge` says what a batch is answered with: a status and headers."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.judge: Callable[[Post], Answer] = lambda post: (204, {})
        self.posts: list[Post] = []
        self.taken: list[Post] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/reports"

    @property
    def ids(self) -> list[str]:
        """Of all records taken, in order."""
        return [name for post in list(self.taken) for name in post.ids]


class _Handler(BaseHTTPRequestHandler):
    server: Headquarters

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        post = Post(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        self.server.posts.append(post)
        status, headers = self.server.judge(post)
        if status < 300:
            self.server.taken.append(post)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def headquarters(port: int = 0) -> Iterator[Headquarters]:
    server = Headquarters(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
