"""What the tests of the commands share: how to call one, a daemon, a terminal, a model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import ports
import pytest
from click.testing import CliRunner, Result
from fake_daemon import FakeDaemon
from pseudo_terminal import Terminal

from edge.cli.main import cli


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    daemon = FakeDaemon()
    yield daemon
    daemon.close()


@pytest.fixture
def terminal(state: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal(*args, env={"EDGE_STATE_DIR": str(state)}))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory for this test alone, and no configuration of the machine's."""
    for name in list(os.environ):
        if name.startswith("EDGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def run(state: Path) -> Iterator[Callable[..., Result]]:
    """Call the command as the shell would; the result has exit code and both outputs."""
    # `edge serve` holds signals back, and so would all that other tests start from here.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def call(*args: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, args, input=stdin)

    yield call
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.fixture
def tiny_model(state: Path) -> Path:
    """A model copied into the store by hand: a real GGUF file with next to no weights."""
    path = state / "models" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(0)
    writer.add_context_length(4096)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{index}" for index in range(40)])
    writer.add_token_types([1] * 40)
    writer.add_token_merges(["t o"])
    writer.add_tensor("token_embd.weight", np.zeros((40, 64), dtype=np.float32))
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def status() -> dict[str, Any]:
    """What the daemon says of itself, with one model that is ready on the CPU."""
    facts = {
        "name": "tiny",
        "path": "/models/tiny.gguf",
        "architecture": "llama",
        "description": "llama 1B Q4_0",
        "size_bytes": 700_000_000,
        "parameters": 1_100_000_000,
        "vocab": 32000,
        "train_context": 2048,
        "context": 2048,
        "slots": 8,
        "backend": "cpu",
        "gpu_layers": 0,
        "layers": 23,
        "kv_type": "f16",
        "flash_attention": True,
        "has_chat_template": True,
        "load_seconds": 1.5,
        "memory_bytes": 900_000_000,
        "system_info": "CPU : AVX2 = 1 |",
    }
    stats = {
        "steps": 1000,
        "slots": 8,
        "free": 5,
        "running": 2,
        "resident": 1,
        "waiting": 3,
        "kv_used_tokens": 4096,
        "kv_total_tokens": 16384,
        "memory_bytes": 910_000_000,
        "kept_prefixes": 12,
        "kept_bytes": 150_000_000,
    }
    model = {
        "name": "tiny",
        "state": "ready",
        "error": None,
        "restarts": 0,
        "facts": facts,
        "stats": stats,
    }
    return {
        "version": "0.1.0",
        "device": {"id": "press-07", "site": "hall 2"},
        "uptime_seconds": 7384.2,
        "models": [model],
    }


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    return ports.free_port()
