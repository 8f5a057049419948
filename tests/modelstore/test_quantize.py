"""Another weights type of a real model, made by llama.cpp."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edge.errors import ModelLoadFailed
from edge.modelstore import gguf
from edge.modelstore.quantize import quantize, quantized_name
from edge.modelstore.store import ModelStore


@pytest.fixture
def store(tmp_path: Path, default_model_path: Path) -> ModelStore:
    (tmp_path / "m.gguf").symlink_to(default_model_path)
    return ModelStore(tmp_path)


def test_copy_has_other_weights_and_a_name_of_its_own(
    store: ModelStore, default_model_path: Path
) -> None:
    """The original is the same afterwards, and a second call makes nothing."""
    model = store.find("m")
    assert model is not None
    before = default_model_path.stat()
    made = quantize(store, model, "Q4_0")
    assert made.name == quantized_name("m", "Q4_0") == "m-q4_0"
    assert gguf.read_header(made.path).file_type == "Q4_0"
    assert gguf.read_header(made.path).vocab == gguf.read_header(model.path).vocab
    assert made.manifest is not None
    assert made.manifest.source == "Q4_0 of m"
    assert made.manifest.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert default_model_path.stat() == before
    written = made.path.stat().st_mtime_ns
    assert quantize(store, model, "Q4_0") == made
    assert made.path.stat().st_mtime_ns == written


def test_file_that_llama_cpp_does_not_read_makes_no_model(tmp_path: Path) -> None:
    """An error with the reason, and nothing is installed."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(1000))
    store = ModelStore(tmp_path)
    model = store.find("m")
    assert model is not None
    with pytest.raises(ModelLoadFailed, match="cannot convert"):
        quantize(store, model, "Q4_0")
    assert [one.name for one in store.installed()] == ["m"]
    assert not list(tmp_path.rglob("m-q4_0*.gguf"))
