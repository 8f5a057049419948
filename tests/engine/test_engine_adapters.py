"""What an adapter does to the numbers, against the same changes in the weights themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from adapters import write_adapter, write_merged

from edge.engine.backend import Chunk
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.errors import ModelLoadFailed
from edge.types import Adapter, EngineSettings

LOG = LlamaLog()
SETTINGS = EngineSettings("cpu", 1, None, 2, 512, "f16", 256, 0)
PROMPT = list(range(20, 80))


@pytest.fixture(params=families.SIZES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return families.write(tmp_path / "base.gguf", request.param)


def logits(path: Path, adapter: Path | None = None, scale: float = 1.0) -> Any:
    given = None if adapter is None else Adapter(str(adapter), scale)
    backend = LlamaBackend("m", path, SETTINGS, LOG, given)
    try:
        backend.decode([Chunk(0, 0, PROMPT, 1)])
        return backend.logits()[0].copy()
    finally:
        backend.close()


def test_an_adapter_is_what_its_changes_are(base: Path, tmp_path: Path) -> None:
    """At two strengths; at none it is the base, and another adapter is another model."""
    adapter = write_adapter(tmp_path / "a.gguf", base)
    plain = logits(base)
    for scale in (1.0, 0.5):
        merged = write_merged(tmp_path / "merged.gguf", base, scale=scale)
        expected, found = logits(merged), logits(base, adapter, scale)
        assert np.abs(found - plain).max() > 0.1
        assert np.abs(found - expected).max() < 0.02
    assert np.array_equal(logits(base, adapter, 0.0), plain)
    other = write_adapter(tmp_path / "b.gguf", base, 2)
    assert np.abs(logits(base, other) - logits(base, adapter)).max() > 0.1


def test_an_adapter_that_llama_cpp_refuses(tmp_path: Path) -> None:
    """Named, with its path."""
    base = families.write(tmp_path / "base.gguf", "tinyllama")
    adapter = write_adapter(tmp_path / "a.gguf", base, architecture="gemma")
    with pytest.raises(ModelLoadFailed, match=r"cannot load the adapter .*a\.gguf"):
        logits(base, adapter)
