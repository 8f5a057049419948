"""A daemon that plays the wire format: streamed answers, whole, cut and wrong, and status pages."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DONE = b"data: [DONE]\n\n"


def event(**chunk: Any) -> bytes:
    """One server-sent event, characters outside ASCII as they are."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def text(content: str, finish_reason: str | None = None) -> bytes:
    """A piece of the answer."""
    return event(
        choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]
    )


def answer(*pieces: str, finish_reason: str = "stop") -> list[bytes]:
    """A whole answer as the daemon streams it, with role, usage and timings."""
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": len(pieces),
        "total_tokens": 20 + len(pieces),
        "prompt_tokens_details": {"cached_tokens": 16},
    }
    return [
        event(choices=[{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]),
        *(text(piece) for piece in pieces),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": finish_reason}]),
        event(choices=[], usage=usage, timings={"predicted_per_second": 31.25}),
        DONE,
    ]


class FakeDaemon:
    """Plays answers on a real port.

    requests: the bodies of the chat requests. script: the events to send for each of them, the
    last ones again and again; at a None nothing more is sent until the client goes away, which
    sets `left`. refusal: status, type and body instead of a stream. promise_more: announce a
    longer body than is sent. pages: the same for GET, by path, and for `POST /path`.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.script: list[list[bytes | None]] = [list(answer("Hel", "lo."))]
        self.refusal: tuple[int, str, bytes] | None = None
        self.promise_more = False
        self.pages: dict[str, tuple[int, str, bytes]] = {}
        self.left = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take_turn(self, body: dict[str, Any]) -> int:
        """Which request this is, from 0; two that come at once get two numbers."""
        with self._lock:
            self.requests.append(body)
            return len(self.requests) - 1

    def serve(self, status: Any) -> None:
        """Answer `/health` and the status page."""
        self.pages["/health"] = (200, "application/json", b'{"status": "ok"}')
        self.pages["/admin/v1/status"] = (200, "application/json", json.dumps(status).encode())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = daemon.pages.get(self.path, (404, "text/html", b"<h1>Not found</h1>"))
                self._whole(*page)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if page := daemon.pages.get(f"POST {self.path}"):
                    self._whole(*page)
                    return
                turn = daemon.take_turn(json.loads(body))
                if daemon.refusal:
                    self._whole(*daemon.refusal)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                if daemon.promise_more:
                    self.send_header("Content-Length", "100000")
                self.end_headers()
                for item in daemon.script[min(turn, len(daemon.script) - 1)]:
                    if item is None:
                        self._wait_for_the_end()
                        return
                    self.wfile.write(item)
                    self.wfile.flush()

            def _wait_for_the_end(self) -> None:
                with suppress(ConnectionError):
                    self.rfile.read(1)
                daemon.left.set()

            def _whole(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *ignored: object) -> None:
                """Quiet: pytest shows what matters."""

        return Handler
