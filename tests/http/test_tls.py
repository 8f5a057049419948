"""The whole API over TLS, with the certificates that `edge certs init` makes."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from daemon_process import MODEL, DaemonProcess, running

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
