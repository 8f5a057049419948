"""Removing models: what goes, and what stays because somebody needs it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filled_store import add, add_as_before
from tinymodel import write_model

from edge.errors import ModelInUse, ModelNotFound, PullFailed, StoreBroken
from edge.modelstore.store import DRAFT, ModelStore
from edge.modelstore.sweep import PARTIAL_SECONDS, remove, sweep

HOLDER = """
import sys, time
from pathlib import Path
from edge.modelstore.store import ModelStore
with ModelStore(Path(sys.argv[1])).hold(sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_a_model_goes_with_its_bytes(store: ModelStore) -> None:
    """All versions, unless another name needs the bytes."""
    first, second = add(store, "mine"), add(store, "mine", numbers=512)
    add(store, "yours")
    assert remove(store, "mine").removed == [second.path]
    assert [model.name for model in store.installed()] == ["yours"]
    assert remove(store, "yours").freed_bytes == first.size
    assert store.installed() == list(store.blobs.iterdir()) == []
    with pytest.raises(ModelNotFound):
        remove(store, "yours")


def test_one_version_goes(store: ModelStore) -> None:
    """But not the one that the name means; its number is not given again."""
    first, second = add(store, "mine"), add(store, "mine", numbers=512)
    with pytest.raises(PullFailed, match="means version 1 now"):
        remove(store, "mine@1")
    assert remove(store, "mine@2").removed == [second.path]
    assert store.versions("mine") == [first]
    assert add(store, "mine", numbers=512).version == 3


def test_drafts_go_once_nobody_makes_them(store: ModelStore) -> None:
    """What a conversion left that was killed; one that runs keeps its own."""
    with store.claim("mine") as folder:
        draft = folder / f"Q4_0{DRAFT}"
        draft.write_bytes(bytes(1000))
        (folder / "half.gguf").touch()
        assert sweep(store).removed == []
    swept = sweep(store)
    assert (swept.removed, swept.freed_bytes) == ([draft], 1000)
    assert (folder / "half.gguf").exists()


@pytest.mark.parametrize("by_hand", [False, True])
def test_files_at_the_top_go(store: ModelStore, by_hand: bool) -> None:
    """A file copied in by hand, and one of an earlier release with its manifest."""
    add_as_before(store, "hand")
    if by_hand:
        (store.directory / "hand.json").unlink()
    assert remove(store, "hand").removed == [store.directory / "hand.gguf"]
    assert list(store.directory.glob("hand*")) == []


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_process_serves_stays(store: ModelStore, by_hand: bool) -> None:
    """As long as it lives, however it ends."""
    store.directory.mkdir()
    path = write_model(store.directory / "mine.gguf") if by_hand else add(store, "mine").path
    command = [sys.executable, "-c", HOLDER, str(store.directory), "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ModelInUse, match="in use"):
            remove(store, "mine")
        if not by_hand:
            (store.names / "mine.json").unlink()
            assert sweep(store).busy == [path]
        assert path.exists()
        holder.kill()
        holder.wait()
    removed = remove(store, "mine").removed if by_hand else sweep(store).removed
    assert removed == [path]
    assert not path.exists()


def test_a_file_that_goes_while_somebody_asks_for_it(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gets the lock on what is no longer the model looks again."""
    model = add(store, "mine")
    remove(store, "mine")
    answers = iter([model])  # what was found a moment before it was removed
    look = store.get
    monkeypatch.setattr(store, "get", lambda name: next(answers, None) or look(name))
    with pytest.raises(ModelNotFound), store.hold("mine"):
        pass


def test_downloads_that_nobody_went_on_with(store: ModelStore) -> None:
    """They go after a while; a recent one, and one that somebody works on, do not."""
    for name in ("old", "new", "busy"):
        with store.claim(name) as folder:
            (folder / "x.part").write_bytes(bytes(100))
            if name != "new":
                for path in (folder / "x.part", folder):
                    os.utime(path, (0, path.stat().st_mtime - PARTIAL_SECONDS - 60))
    with store.claim("busy"):
        swept = sweep(store)
    assert (swept.removed, swept.freed_bytes) == ([store.partial / "old"], 100)
    assert (store.partial / "new" / "x.part").exists()
    assert (store.partial / "busy" / "x.part").exists()


def test_nothing_goes_while_a_name_cannot_be_read(store: ModelStore) -> None:
    """Any file might be the one that it stands for."""
    path = add(store, "mine").path
    (store.names / "mine.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreBroken):
        sweep(store)
    assert path.exists()


def test_a_sweep_waits_for_its_turn(store: ModelStore) -> None:
    """A blob that no name stands for yet is safe while somebody is about to write the name."""
    store.blobs.mkdir(parents=True)
    blob = store.blob("0" * 64)
    thread = threading.Thread(target=sweep, args=(store,))
    with store.turn():
        blob.write_bytes(b"")
        thread.start()
        thread.join(0.2)
        assert blob.exists()
    thread.join()
    assert not blob.exists()
