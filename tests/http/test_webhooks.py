"""Outcomes sent to `edge.webhook`, as a receiver sees them."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, Start, poll, running

SECRET = b"a secret of the line"
TEXT = {"prompt": "The sea is", "temperature": 0, "max_tokens": 4}


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted to it; answers with the statuses it is told, then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.received: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/outcome"

    def of(self, response_id: str) -> list[tuple[dict[str, str], bytes]]:
        return [one for one in self.received if json.loads(one[1])["id"] == response_id]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def signing(
    tmp_path_factory: pytest.TempPathFactory, quick_model_path: Path
) -> Iterator[DaemonProcess]:
    """A daemon that has a secret."""
    folder = tmp_path_factory.mktemp("webhooks")
    secret = folder / "secret"
    secret.write_bytes(SECRET + b"\n")
    with running(folder, quick_model_path, webhooks__secret_file=secret) as daemon:
        yield daemon


def test_an_outcome_is_sent_and_signed(signing: DaemonProcess, receiver: Receiver) -> None:
    """The body is what a GET gives, and the signature is its HMAC."""
    accepted = signing.post("/v1/completions", {**TEXT, "edge": {"webhook": receiver.url}})
    assert accepted.status_code == 202
    name = accepted.json()["id"]
    (headers, body) = poll(lambda: receiver.of(name), "the outcome")[0]
    assert json.loads(body) == signing.get(f"/v1/responses/{name}").json()
    expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    assert headers["x-edge-signature"] == expected
    job = f"/admin/v1/jobs/{name.removeprefix('resp_')}"
    poll(lambda: signing.get(job).json()["delivered"], "the receipt on record")


def test_a_failure_is_sent_too(signing: DaemonProcess, receiver: Receiver) -> None:
    """The receiver learns of every end."""
    body = {"prompt": "word " * 3000, "edge": {"webhook": receiver.url}}
    name = signing.post("/v1/completions", body).json()["id"]
    outcome = json.loads(poll(lambda: receiver.of(name), "the outcome")[0][1])
    assert outcome["status"] == "failed"
    assert outcome["error"]["code"] == "context_length_exceeded"


def test_a_receiver_that_fails_first(signing: DaemonProcess, receiver: Receiver) -> None:
    """It gets the same bytes again, later."""
    receiver.statuses = [500]
    body = {**TEXT, "edge": {"webhook": receiver.url}}
    name = signing.post("/v1/completions", body).json()["id"]
    poll(lambda: len(receiver.of(name)) == 2, "a second attempt")
    (first, second) = receiver.of(name)
    assert first[1] == second[1]


def test_without_a_secret(daemon: DaemonProcess, receiver: Receiver) -> None:
    """Sent unsigned, from /v1/responses as from the older routes."""
    body = {"input": "Hi", "max_output_tokens": 4, "edge": {"webhook": receiver.url}}
    accepted = daemon.post("/v1/responses", body)
    assert accepted.status_code == 202
    (headers, _) = poll(lambda: receiver.of(accepted.json()["id"]), "the outcome")[0]
    assert "x-edge-signature" not in headers


@pytest.mark.parametrize("url", ["", "ftp://x/y", "example.com", "http://", "http:// x", 7])
def test_no_address(daemon: DaemonProcess, url: Any) -> None:
    """What cannot be an address is refused before anything is kept."""
    refused = daemon.post("/v1/completions", {**TEXT, "edge": {"webhook": url}})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "edge.webhook"


def test_a_secret_that_cannot_be_read(start: Start, tmp_path: Path) -> None:
    """Exit code 2 and the key at fault."""
    daemon = start(webhooks__secret_file=tmp_path / "missing")
    assert daemon.process.wait(60) == 2
    assert "missing cannot be read" in daemon.log
