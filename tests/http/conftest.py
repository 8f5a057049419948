"""One daemon with the real model for all tests of the HTTP door, and clients for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest
from daemon_process import PATIENCE, DaemonProcess, running
from openai import OpenAI

TokenId = Callable[[str], int]


@pytest.fixture(scope="session")
def shared_daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    settings = {"engine__slots": 8, "queue__max_file_mb": 2}
    with running(tmp_path_factory.mktemp("http"), default_model_path, **settings) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """The shared daemon, which every test leaves as idle as it found it."""
    shared_daemon.new_log()
    yield shared_daemon
    print(shared_daemon.new_log())  # noqa: T201 - pytest shows it when the test has failed
    shared_daemon.wait_idle()


@pytest.fixture(scope="session")
def shared_client(shared_daemon: DaemonProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=shared_daemon.url + "/v1",
        api_key="none",
        max_retries=0,
        timeout=PATIENCE,
        _strict_response_validation=True,
    ) as sdk:
        yield sdk


@pytest.fixture
def client(daemon: DaemonProcess, shared_client: OpenAI) -> OpenAI:
    """The official SDK, told to check every answer against its own types."""
    return shared_client


@pytest.fixture(scope="session")
def token_id(default_model_path: Path) -> TokenId:
    """The id of the token that is exactly this text, which may begin with a blank."""
    field = gguf.GGUFReader(default_model_path).fields["tokenizer.ggml.tokens"]
    ids = {bytes(field.parts[at]).decode(): number for number, at in enumerate(field.data)}
    return lambda text: ids[text.replace(" ", "Ġ")]  # GPT-2's spelling of a blank
