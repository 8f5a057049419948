"""Models in parts: joined on their way into the store, to what they were before they were split."""

from __future__ import annotations

import hashlib
import types
from pathlib import Path

import gguf
import numpy as np
import pytest
from loading import attempt
from split_model import split
from tinymodel import write_loadable, write_model

from edge.errors import BadModelFile, PullFailed
from edge.modelstore import workspace
from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.gguf import read_header
from edge.modelstore.parts import join, model_name, part_names, parts_at
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.modelstore.sweep import remove


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    """A folder with a model in three parts, and the model beside it."""
    folder = tmp_path / "press"
    folder.mkdir()
    split(write_loadable(tmp_path / "whole.gguf"), folder, 3, "press")
    return folder


def bring(store: ModelStore, path: Path) -> Path:
    return pull(store, Wanted(name="mine", source=FileSource(str(path)))).path


def quietly(done: int, whole: int) -> None:
    pass


def change(path: Path, key: str, value: int) -> None:
    """Another number for one of the keys that tell which part it is."""
    content = bytearray(path.read_bytes())
    at = content.index(key.encode()) + len(key) + 4
    size = 4 if key == "split.tensors.count" else 2
    content[at : at + size] = value.to_bytes(size, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("which", ["", "press-00001-of-00003.gguf", "press-00003-of-00003.gguf"])
def test_an_import(store: ModelStore, stick: Path, which: str) -> None:
    """By the folder or by any of the parts: one file with all that the whole one had."""
    path = bring(store, stick / which)
    joined, whole = gguf.GGUFReader(path), gguf.GGUFReader(stick.parent / "whole.gguf")
    assert [one.name for one in joined.tensors] == [one.name for one in whole.tensors]
    for one, other in zip(joined.tensors, whole.tensors, strict=True):
        assert (one.tensor_type, list(one.shape)) == (other.tensor_type, list(other.shape))
        assert np.array_equal(one.data, other.data)
    said = {k: f.contents() for k, f in joined.fields.items() if not k.startswith("GGUF.")}
    assert said == {k: f.contents() for k, f in whole.fields.items() if not k.startswith("GGUF.")}
    assert read_header(path).size_bytes == path.stat().st_size
    assert store.blob(hashlib.sha256(path.read_bytes()).hexdigest()) == path
    assert attempt(path) == "loaded"


def test_a_joined_file_is_the_one_that_was_split(store: ModelStore, stick: Path) -> None:
    """To the byte, with a writer that lays files out as ours does; so the same contents again,
    whole or in other parts, are no second version."""
    path = bring(store, stick)
    other = stick.parent / "other"
    other.mkdir()
    split(stick.parent / "whole.gguf", other, 2, "x")
    assert bring(store, other) == path
    assert [model.version for model in store.versions("mine")] == [1]


def test_it_is_one_model_to_the_store(store: ModelStore, stick: Path) -> None:
    """Held as one, removed as one."""
    path = bring(store, stick)
    assert [one.path for one in store.installed()] == [path]
    assert list(store.blobs.iterdir()) == [path]
    remove(store, "mine")
    assert list(store.blobs.iterdir()) == []


def test_progress(store: ModelStore, stick: Path) -> None:
    """Up to the last byte of the joined file."""
    seen: list[tuple[int, int]] = []
    wanted = Wanted(name="mine", source=FileSource(str(stick)))
    model = pull(store, wanted, lambda done, whole: seen.append((done, whole)))
    assert seen == sorted(seen)
    assert seen[-1] == (model.size, model.size)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_part_that_is_missing(store: ModelStore, stick: Path, number: int) -> None:
    """It is named, whichever was given."""
    gone = stick / f"press-0000{number}-of-00003.gguf"
    gone.unlink()
    for given in (stick, stick / "press-00001-of-00003.gguf"):
        with pytest.raises(BadModelFile, match=f"{gone.name} is missing: the model has 3 parts"):
            bring(store, given)
    assert store.installed() == []


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("split.no", 2, r"its split\.no is 2, not 1"),
        ("split.count", 4, r"its split\.count is 4, not 3"),
        ("split.tensors.count", 99, r"its split\.tensors\.count is 99, not 20"),
    ],
)
def test_a_part_of_something_else(
    store: ModelStore, stick: Path, key: str, value: int, reason: str
) -> None:
    """What it says of itself is not what its name and the first part say."""
    change(stick / "press-00002-of-00003.gguf", key, value)
    with pytest.raises(BadModelFile, match=rf"press-00002-of-00003\.gguf.*{reason}"):
        bring(store, stick)
    assert store.installed() == []
    assert list(store.partial.rglob("*.gguf")) == []


def test_parts_of_two_models(store: ModelStore, stick: Path, tmp_path: Path) -> None:
    """One part of another model of as many tensors: it has tensors that others have too; one that
    is there under two names has them twice."""
    second, third = (stick / f"press-0000{number}-of-00003.gguf" for number in (2, 3))
    third.write_bytes(second.read_bytes())
    change(third, "split.no", 2)
    with pytest.raises(BadModelFile, match=r"press-00003.*another one has the tensor"):
        bring(store, stick)


def test_tensors_that_no_part_has(store: ModelStore, stick: Path) -> None:
    """All parts agree on how many there are, and there are fewer."""
    for part in stick.iterdir():
        change(part, "split.tensors.count", 21)
    with pytest.raises(BadModelFile, match=r"say.* 21 tensors, and they have 20"):
        bring(store, stick)


def test_a_part_that_is_damaged(store: ModelStore, stick: Path) -> None:
    """Cut short, or something else: told by name, as a whole file is."""
    part = stick / "press-00003-of-00003.gguf"
    whole = part.read_bytes()
    part.write_bytes(whole[:-40])
    with pytest.raises(BadModelFile, match=r"press-00003.*truncated"):
        bring(store, stick)
    part.write_bytes(b"<html>")
    with pytest.raises(BadModelFile, match=r"press-00003.*web page"):
        bring(store, stick)


def test_a_joined_file_is_checked_as_any_other(store: ModelStore, tmp_path: Path) -> None:
    """Parts that fit each other and are no model that llama.cpp can run."""
    folder = tmp_path / "odd"
    folder.mkdir()
    whole = write_model(tmp_path / "odd.gguf", layers=1, extra=_with_a_block_too_many)
    split(whole, folder, 2, "odd")
    with pytest.raises(BadModelFile, match="tensors of block 7"):
        bring(store, folder)
    assert store.installed() == []


def _with_a_block_too_many(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("blk.7.ffn_up.weight", np.zeros(32, np.float32))


def test_another_alignment(tmp_path: Path) -> None:
    """Of the first part alone, as it is where a file was split that has one: weights move."""

    def aligned(writer: gguf.GGUFWriter) -> None:
        writer.add_custom_alignment(128)
        writer.add_tensor("odd", np.arange(5, dtype=np.float32))

    whole = write_model(tmp_path / "whole.gguf", extra=aligned)
    target = tmp_path / "joined.gguf"
    join(split(whole, tmp_path, 2, "x"), target, quietly)
    assert read_header(target).parameters == read_header(whole).parameters
    for one, other in zip(
        gguf.GGUFReader(target).tensors, gguf.GGUFReader(whole).tensors, strict=True
    ):
        assert np.array_equal(one.data, other.data)
        assert one.data_offset % 128 == 0


def test_a_first_part_without_tensors(store: ModelStore, stick: Path, tmp_path: Path) -> None:
    """As large models are split."""
    parts = split(tmp_path / "whole.gguf", tmp_path, 3, "bare", bare_first=True)
    assert gguf.GGUFReader(parts[0]).tensors == []
    assert bring(store, parts[0]) == bring(store, stick)


def test_no_room(store: ModelStore, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noticed before the first byte is written."""
    usage = types.SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(PullFailed, match="not enough room"):
        bring(store, stick)


def test_a_folder_of_several_models(store: ModelStore, stick: Path) -> None:
    """Nobody guesses which one is meant."""
    write_model(stick / "other.gguf")
    with pytest.raises(BadModelFile, match="has 2 models in it"):
        bring(store, stick)
    assert parts_at(stick / "other.gguf") == [stick / "other.gguf"]


def test_names() -> None:
    """What a part's name tells, and what a model is called after it."""
    assert part_names("a-00002-of-00002.gguf") == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    for name in ("a.gguf", "a-00003-of-00002.gguf", "a-00000-of-00002.gguf", "a-1-of-2.gguf"):
        assert part_names(name) == [name]
    assert model_name(Path("/x/a-b-00001-of-00002.gguf")) == "a-b"
    assert model_name(Path("/x/a.Q4_0.gguf")) == "a.Q4_0"
