"""The whole API over TLS, with the certificates that `edge certs init` makes."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, poll, running

EDGE = [sys.executable, "-m", "edge"]


@pytest.fixture(scope="module")
def encrypted(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("encrypted")
    state = {**os.environ, "EDGE_STATE_DIR": str(folder / "state")}
    subprocess.run([*EDGE, "certs", "init"], env=state, check=True, capture_output=True)
    with running(folder, default_model_path, http__tls="true", auth__required="true") as daemon:
        yield daemon.wait_ready()


def test_streams_with_the_official_sdk(encrypted: DaemonProcess) -> None:
    state = {**os.environ, "EDGE_STATE_DIR": str(encrypted.folder / "state")}
    made = subprocess.run([*EDGE, "keys", "add", "sdk"], env=state, capture_output=True, text=True)
    context = ssl.create_default_context(cafile=encrypted.folder / "state/certs/ca.crt")
    client = openai.OpenAI(
        base_url=encrypted.url + "/v1",
        api_key=made.stdout.strip(),
        http_client=httpx.Client(verify=context, trust_env=False),
    )
    stream = client.completions.create(
        model=MODEL, prompt="The sea is", max_tokens=8, temperature=0, stream=True
    )
    assert len([chunk for chunk in stream if chunk.choices]) > 1
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url=encrypted.url + "/v1", api_key="x", max_retries=0).models.list()


def test_commands_find_their_own_authority(encrypted: DaemonProcess) -> None:
    state = {**os.environ, "EDGE_STATE_DIR": str(encrypted.folder / "state")}
    done = subprocess.run(
        [*EDGE, "status", "--url", encrypted.url, "--json"],
        env=state,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["models"][0]["state"] == "ready"


def test_bad_requests_and_plain_http(encrypted: DaemonProcess) -> None:
    """Neither ends anything; an error still arrives whole."""
    context = ssl.create_default_context(cafile=encrypted.folder / "state/certs/ca.crt")
    with httpx.Client(verify=context, trust_env=False) as client:
        refused = client.get(encrypted.url + "/health", headers={"x": "y" * 70_000})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "invalid_request_error"
        with pytest.raises(httpx.TransportError):
            client.get(encrypted.url.replace("https:", "http:") + "/health")
        assert client.get(encrypted.url + "/health").status_code == 200


def test_what_is_no_handshake(encrypted: DaemonProcess) -> None:
    """It is a connection from its beginning, is counted when it fails, and ends nothing else."""

    def facts() -> dict[str, Any]:
        found: dict[str, Any] = encrypted.get("/admin/v1/status").json()["limits"]
        return found

    key = (encrypted.folder / "state/keys/own").read_text()
    encrypted.http.headers["Authorization"] = f"Bearer {key}"
    failed = 'edge_http_connections_dropped_total{reason="handshake"}'
    address = ("127.0.0.1", encrypted.port)
    with socket.create_connection(address, PATIENCE) as silent:
        silent.sendall(b"\x16\x03\x01")
        poll(lambda: facts()["connections"] == 2, "the silent one is counted")
        before = encrypted.metrics().get(failed, 0)
        with socket.create_connection(address, PATIENCE) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            poll(lambda: encrypted.metrics().get(failed, 0) > before, "it is counted")
    poll(lambda: facts()["connections"] == 1, "both have gone")


def test_many_handshakes_at_once(encrypted: DaemonProcess) -> None:
    """Not a byte of the first ones is lost, however soon they come."""
    context = ssl.create_default_context(cafile=encrypted.folder / "state/certs/ca.crt")

    def ask(number: int) -> int:
        return httpx.get(encrypted.url + "/health", verify=context, timeout=PATIENCE).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {200}
