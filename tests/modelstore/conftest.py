"""A hub, and web server, for all tests of pulling: a child process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import Hub
from split_model import split
from tinymodel import write_model


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, bytes]]:
    path = write_model(tmp_path_factory.mktemp("hub") / "model.gguf", numbers=6_000_000)
    split(path, path.parent, 3, "split")
    split(path, path.parent, 2, "foreign")[1].write_bytes(path.read_bytes())
    command = [sys.executable, str(Path(__file__).with_name("hub.py")), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", path.read_bytes()
        process.kill()


@pytest.fixture
def hub(server: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return Hub(*server)
