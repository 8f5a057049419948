"""A web server in a process of its own, which drops connections in the middle of a file.

How often is for the test to say while it runs: the number in the file `drops` is how many of the
next answers are cut.
"""

from __future__ import annotations

import os
import random
import re
import signal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class CuttingServer:
    """Serves one file; ends with the process that made it, or with `close`."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self._drops = folder / "drops"
        self.drop(0)
        server = HTTPServer(("127.0.0.1", 0), _handler(content, self._drops))
        self.url = f"http://127.0.0.1:{server.server_port}/model.gguf"
        self._pid = os.fork()
        if self._pid == 0:
            server.serve_forever()
        server.server_close()

    def drop(self, count: int) -> None:
        """Cut so many of the next answers, each somewhere else."""
        self._drops.write_text(str(count))

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _handler(content: bytes, drops: Path) -> type[BaseHTTPRequestHandler]:
    dice = random.Random(3)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            left = int(drops.read_text() or 0)
            end = len(content)
            if left:
                drops.write_text(str(left - 1))
                end = dice.choice((start, dice.randrange(start, end)))
            self.wfile.write(content[start:end])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
