"""A Hugging Face hub for tests: a child process, whose repositories each have one fault.

    python hub.py MODEL_FILE

prints its port. The repository name says what goes wrong; `GET /requests` tells what was asked.
Files that lie beside the model are to be had by their names; all other names mean the model.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
CUT_AT = 12_000_000
PAGE = b"<!DOCTYPE html><html><body>Log in to the hotel network</body></html>"
REFUSALS = {
    "gated": (401, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "revisionless": (404, "RevisionNotFound"),
    "fileless": (404, "EntryNotFound"),
    "ill": (500, ""),
}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    model: bytes
    requests: list[dict[str, str | None]]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        if self.path == "/requests":
            return self.send(200, {}, json.dumps(self.requests).encode())
        return self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.requests.append(
            {
                "method": self.command,
                "path": self.path,
                "range": self.headers.get("Range"),
                "authorization": self.headers.get("Authorization"),
            }
        )
        repo = self.path.split("/")[2]
        body = PAGE if repo == "webpage" else self.contents()
        digest = hashlib.sha256(b"other" if repo == "lying" else body).hexdigest()
        facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if repo in REFUSALS:
            status, code = REFUSALS[repo]
            self.send(status, {"X-Error-Code": code} if code else {}, b"" if with_body else None)
        elif repo == "redirected":
            port = self.server.server_address[1]
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
            place = f"http://localhost:{port}/cdn/good/{digest}"
            self.send(302, {**facts, **linked, "Location": place}, b"" if with_body else None)
        elif not with_body:
            self.send(200, {**facts, "Content-Length": str(len(body))}, None)
        else:
            self.send_model(repo, facts, body)

    def contents(self) -> bytes:
        beside = self.folder / self.path.rpartition("/")[2]
        return beside.read_bytes() if beside.is_file() else self.model

    def send_model(self, repo: str, facts: dict[str, str], body: bytes) -> None:
        asked = [seen for seen in self.requests if seen["path"] == self.path]
        attempt = sum(seen["method"] == "GET" for seen in asked)
        if repo in ("cut", "cut-and-ill") and attempt == 1:
            self.send(200, {**facts, "Content-Length": str(len(body))}, body[:CUT_AT])
            self.close_connection = True
        elif repo == "cut-and-ill" and attempt == 2:
            self.send(500, {}, b"")
        elif wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.send(206, {**facts, "Content-Range": span}, body[start:])
        else:
            self.send(200, facts, body)
        return None

    def send(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        self.send_response(status)
        if body is not None and "Content-Length" not in headers:
            headers = {**headers, "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    Hub.folder, Hub.requests = Path(sys.argv[1]).parent, []
    Hub.model = Path(sys.argv[1]).read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)  # noqa: T201
    server.serve_forever()
