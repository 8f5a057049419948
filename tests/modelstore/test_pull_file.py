"""Importing a file of this machine."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from tinymodel import write_model

from edge.errors import BadModelFile, PullFailed
from edge.modelstore import workspace
from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def wanted(path: Path) -> Wanted:
    return Wanted(name="mine", source=FileSource(str(path)))


def test_an_import(store: ModelStore, tmp_path: Path) -> None:
    """A copy, which what happens to the original later does not reach."""
    path = write_model(tmp_path / "stick.gguf", numbers=2_000_000)
    content, seen = path.read_bytes(), list[tuple[int, int]]()
    model = pull(store, wanted(path), lambda done, total: seen.append((done, total)))
    path.write_bytes(b"")
    assert model.path.read_bytes() == content
    assert model.manifest
    assert model.manifest.source == f"file:{path}"
    assert seen == sorted(seen)
    assert seen[-1] == (len(content), len(content))


def test_a_path_with_another_file_by_now(store: ModelStore, tmp_path: Path) -> None:
    """It becomes a second version; the first one again is no third."""
    path = write_model(tmp_path / "stick.gguf")
    first = pull(store, wanted(path))
    write_model(path, numbers=512)
    assert pull(store, wanted(path)).version == 2
    write_model(path)
    assert pull(store, wanted(path)) == first


def test_a_damaged_copy_is_mended(store: ModelStore, tmp_path: Path) -> None:
    """By importing it once more."""
    path = write_model(tmp_path / "stick.gguf")
    model = pull(store, wanted(path))
    model.path.write_bytes(b"GGUF")
    assert pull(store, wanted(path)) == model


def test_a_file_that_is_no_model(store: ModelStore, tmp_path: Path) -> None:
    """It is named, and nothing is copied."""
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html></html>")
    with pytest.raises(BadModelFile, match=r"page\.gguf.*web page"):
        pull(store, wanted(path))
    with pytest.raises(BadModelFile, match="cannot be read"):
        pull(store, wanted(tmp_path / "none.gguf"))
    assert store.installed() == []


def test_no_room_for_a_copy(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed before the first byte is written."""
    path = write_model(tmp_path / "stick.gguf")
    usage = types.SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr("edge.modelstore.local._cloned", lambda original, copy: False)
    with pytest.raises(PullFailed, match="not enough room"):
        pull(store, wanted(path))
