"""Kills a process before each of its calls to the file system, and looks at what it left.

`python kill_points.py FOLDER`: prints how many points there were; fails at the first broken store.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from tinymodel import write_model

from edge.errors import ModelNotFound
from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.modelstore.sweep import remove, sweep

CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock", "os.truncate")


def killed(work: Callable[[], None], point: int) -> bool:
    """Do the work in a process that is killed before that call; False when it had fewer."""
    child = os.fork()
    if child == 0:
        calls = iter(range(point))

        def audit(event: str, _: object) -> None:
            if event in CALLS and next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"point {point}: it ended with {status}"
    return status != 0


def check(store: ModelStore) -> None:
    """What a name stands for is there, and is to the byte what its name promises."""
    names = {path.stem for path in store.names.glob("*.json")}
    assert names == {model.name for model in store.installed()}, names
    for name in names:
        known = store.known(name)
        assert known.get(known.active) is not None, known
        assert len(store.versions(name)) == len(known.versions), known
    for blob in store.blobs.glob("*"):
        assert blob.name == f"sha256-{hashlib.sha256(blob.read_bytes()).hexdigest()}.gguf"


def bring(store: ModelStore, path: Path) -> None:
    pull(store, Wanted(name="mine", source=FileSource(str(path))))


def whole_life(store: ModelStore, first: Path, second: Path) -> None:
    """A model comes, another version comes and is used, the first one goes, then all."""
    bring(store, first)
    bring(store, second)
    number = next(
        one.version for one in store.versions("mine") if one.size == second.stat().st_size
    )
    assert number
    store.activate("mine", number)
    for name in [f"mine@{one.version}" for one in store.versions("mine") if not one.active]:
        remove(store, name)
    remove(store, "mine")
    sweep(store)


def lives(folder: Path, first: Path, second: Path) -> int:
    """Killed at every point of a model's life; the next try does it all."""
    point = 0
    while True:
        store = ModelStore(folder / f"life{point}")
        if not killed(partial(whole_life, store, first, second), point):
            return point
        check(store)
        whole_life(store, first, second)
        left = [path for path in store.directory.rglob("*") if path.is_file()]
        assert all(path.name.endswith(".lock") for path in left), left
        point += 1


def take_overs(folder: Path, first: Path) -> int:
    """The same for a model of an earlier release, which is never lost."""
    content, point = first.read_bytes(), 0
    while True:
        store = ModelStore(folder / f"old{point}")
        store.directory.mkdir()
        bring(store, first)
        model = store.get("mine")
        assert model.manifest
        # As the release before had it: the file under its name, the manifest beside it.
        os.rename(model.path, store.directory / "mine.gguf")
        (store.directory / "mine.json").write_bytes(msgspec.json.encode(model.manifest))
        (store.names / "mine.json").unlink()
        more = killed(store.take_over, point)
        assert store.path("mine").read_bytes() == content
        store.take_over()
        check(store)
        assert store.get("mine").path.read_bytes() == content
        if not more:
            return point
        point += 1


if __name__ == "__main__":
    place = Path(sys.argv[1])
    files = [write_model(place / f"{number}.gguf", numbers=number) for number in (256, 512)]
    with suppress(ModelNotFound):
        ModelStore(place / "x").path("warm the catalog")
    print(lives(place, *files), take_overs(place, files[0]))  # noqa: T201
