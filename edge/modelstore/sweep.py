"""Taking models away: a name on request, and the bytes that no name needs any more.

Nothing that is held (`ModelStore.hold`) or claimed (`ModelStore.claim`) is touched.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from edge.disk import sync
from edge.errors import ModelInUse, PullFailed
from edge.modelstore import folders, versions
from edge.modelstore.locks import alone
from edge.modelstore.store import DRAFT, Installed, ModelStore

PARTIAL_SECONDS = 7 * 86_400
"""A download that was cut is kept for this long for a next try to go on with."""

logger = logging.getLogger(__name__)


class Swept(msgspec.Struct, frozen=True):
    """removed: files and folders that are gone; freed_bytes: what they took.

    busy: what no name needs, but somebody still uses.
    """

    removed: list[Path]
    freed_bytes: int
    busy: list[Path]


def sweep(store: ModelStore) -> Swept:
    """Remove files that no name stands for, cut downloads that nobody went on with, drafts that
    nobody makes any more, and what an install of a bundle left that was killed.

    Raises `StoreBroken` when a name cannot be read, since any blob may be the one it needs.
    """
    with store.turn():
        garbage = _needless_blobs(store)
        removed: list[Path] = []
        busy: list[Path] = []
        freed = 0
        for path in garbage:
            with alone(path) as free:
                if free:
                    freed += path.stat().st_size
                    path.unlink()
                (removed if free else busy).append(path)
        # Of writers that were killed: they had this turn.
        for path in (*store.names.glob("*.part"), *store.directory.glob(".journal.*.part")):
            path.unlink()
        # With the turn, so that there is no journal that needs it.
        with alone(store.draft.with_name(f"{store.draft.name}.lock")) as free:
            if free and store.draft.exists():
                freed += _bytes_in(store.draft)
                shutil.rmtree(store.draft, ignore_errors=True)
                removed.append(store.draft)
    for folder in [path for path in store.partial.glob("[!.]*") if path.is_dir()]:
        with alone(folder.with_name(f"{folder.name}.lock")) as free:
            for draft in folder.glob(f"*{DRAFT}") if free else ():
                freed += draft.stat().st_size
                draft.unlink()
                removed.append(draft)
            if free and _written_at(folder) < time.time() - PARTIAL_SECONDS:
                freed += _bytes_in(folder)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return Swept(removed, freed, busy)


def remove(store: ModelStore, name: str) -> Swept:
    """Forget NAME with all its versions, or NAME@VERSION, and the bytes that nothing else needs;
    or take away the folder of that name.

    Raises `ModelNotFound`, `ModelInUse`, and `PullFailed` for the version that the name means while
    there are others.
    """
    if store.find(name) is None and folders.find(store, name) is not None:
        gone = folders.remove(store, name)
        return Swept([gone.path], gone.size, [])
    with store.turn(), ExitStack() as held:
        model = store.get(name)
        if model.version is None:
            _lone(held, model)
            for path in (model.path, store.directory / f"{name}.json"):
                path.unlink(missing_ok=True)
            sync(store.directory)
            freed, removed = model.size, [model.path]
        else:
            _forget(store, held, model, whole=model.name == name)
            freed, removed = 0, []
    swept = sweep(store)
    return Swept(removed + swept.removed, freed + swept.freed_bytes, swept.busy)


def _forget(store: ModelStore, held: ExitStack, model: Installed, whole: bool) -> None:
    known, pointer = store.known(model.name), store.names / f"{model.name}.json"
    assert model.version is not None
    if whole or len(known.versions) == 1:
        for one in store.versions(model.name):
            _lone(held, one)
        pointer.unlink(missing_ok=True)
        sync(pointer.parent)
        return
    if model.version == known.active:
        raise PullFailed(
            f"{model.name} means version {model.version} now",
            hint=f"edge models use {model.name}@VERSION, or edge models rm {model.name}",
        )
    _lone(held, model)
    versions.write(pointer, known.without(model.version))


def _lone(held: ExitStack, model: Installed) -> None:
    if not held.enter_context(alone(model.path)):
        raise ModelInUse(
            f"{model.path} is in use by a running daemon",
            hint="take it out of the configuration and restart the daemon",
        )


def _needless_blobs(store: ModelStore) -> list[Path]:
    needed = {
        store.blob(one.manifest.sha256)
        for path in store.names.glob("*.json")
        for one in versions.read(path).versions
    }
    return [path for path in sorted(store.blobs.glob("sha256-*.gguf")) if path not in needed]


def _written_at(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
