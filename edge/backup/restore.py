"""Restoring a backup: all of it or nothing. Blocking; no daemon may use the state directory.

    read and check everything into drafts ─► plan: from here on it counts ─► renames

Whatever ends this before the plan is written leaves the old state and a draft, which the next
restore takes away. After it, the next restore or the start of the daemon carries on (`settle`):
renames need no room.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge.audit.event import Event, now, utc
from edge.audit.folder import Folder
from edge.audit.log import Bounds, Noted, opened
from edge.backup import archive
from edge.backup.parts import CONFIG, DATABASES, FILES, FOLDERS, MODELS, Manifest, place_of
from edge.disk import sync, write_atomically
from edge.errors import BackupRefused, StoreBroken
from edge.modelstore.locks import turn
from edge.store import file as database_file
from edge.store.copy import check_copy
from edge.store.reports import SCHEMA as REPORTS
from edge.store.schema import MIGRATIONS as JOBS

DRAFT = ".restore"
PLAN = "plan.json"
LEDGER = "jobs.sqlite"

_LOGS = [f"{name}{suffix}" for name in DATABASES for suffix in ("-wal", "-shm")]
PLACES = [*_LOGS, *DATABASES, *FILES, *FOLDERS]
"""All that a backup may have; before the databases what is left of their logs, which goes."""

logger = logging.getLogger(__name__)


class Plan(msgspec.Struct, frozen=True):
    """places: of the state directory, that get what the drafts have. removed: those that are not in
    the backup.

    It does not say where the configuration goes: the daemon's user can write a plan, and root may
    be who finds it.
    """

    places: list[str]
    removed: list[str]


class Restored(msgspec.Struct, frozen=True):
    """config: where the configuration was put, or beside which one in force; None for nowhere."""

    manifest: Manifest
    config: Path | None


def check(source: str) -> Manifest:
    """Read all of it and compare every byte. Raises `BackupRefused`, `OSError`."""
    with _opened(source) as file:
        manifest = archive.read_head(file)
        _check_paths(manifest)
        for entry in manifest.entries:
            for _ in archive.read_file(file, entry):
                pass
        archive.read_end(file)
    return manifest


def restore(source: str, state: Path, config: Path | None, *, replace: bool = False) -> Restored:
    """Make a state directory what it was. source: a file, or `-` for the standard input.

    config: where the configuration belongs, None to leave that alone. replace: also where there is
    an appliance already.
    Raises `BackupRefused`, `StoreInUse` while a daemon runs, `StoreFull`, `StoreBroken`, `OSError`.
    """
    database_file.make_folder(state)
    with turn(state / f"{DRAFT}.lock"), _alone(state):
        _finish(state, config)
        if (state / LEDGER).exists() and not replace:
            raise BackupRefused(
                f"there is an appliance in {state} already: it would be replaced",
                hint="--replace, if that is meant; edge backup first",
            )
        _discard(state)
        try:
            manifest = _stage(source, state)
            _check_databases(state)
            _give(state)
            write_atomically(_draft(state, "") / PLAN, _plan(state), mode=0o600)
        except BaseException:
            if not (_draft(state, "") / PLAN).exists():
                _discard(state)
            raise
        placed = _finish(state, config)
        _note(state, manifest)
    return Restored(manifest, placed)


def settle(state: Path, config: Path | None) -> None:
    """Finish what a restore was killed over. For whoever starts, before a file is opened.

    config: where the configuration belongs. Raises `StoreBroken` where that cannot be done.
    """
    if not (_draft(state, "") / PLAN).exists():
        return
    try:
        with turn(state / f"{DRAFT}.lock"):
            _finish(state, config)
    except OSError as error:
        raise StoreBroken(
            f"a restore that was cut off cannot be finished: {error}",
            hint="try as root: edge restore FILE --replace",
        ) from None


def _note(state: Path, manifest: Manifest) -> None:
    """In the audit log that was restored: it goes on from there."""
    if not manifest.of("audit.key"):
        return
    with opened(Folder(state), Bounds()) as log:
        log.append([Noted(Event(what="restore", detail=f"made {utc(manifest.made)}", **now()))])
        log.seal()


# Before it counts


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        with open(source, "rb") as file:
            yield file
    except BackupRefused as error:
        raise BackupRefused(f"{source}: {error.message}", hint=error.hint) from None


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Raises `StoreInUse` while a daemon has the ledger."""
    handle = database_file.lock(state / LEDGER)
    try:
        if os.geteuid() == 0:  # the daemon has to take it after us
            owner = state.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)
        yield
    finally:
        os.close(handle)


def _check_paths(manifest: Manifest) -> None:
    for entry in manifest.entries:
        if entry.path != CONFIG and place_of(entry.path) is None:
            raise BackupRefused(f"{entry.path} has no place in an appliance")


def _draft(state: Path, place: str) -> Path:
    """Where the drafts for a place are: on its file system."""
    return state / "models" / DRAFT if place.startswith(MODELS) else state / DRAFT


def _new(state: Path, place: str) -> Path:
    return _draft(state, place) / "new" / place


def _stage(source: str, state: Path) -> Manifest:
    folders = set()
    _draft(state, "").mkdir(mode=0o700)
    with _opened(source) as file:
        manifest = archive.read_head(file)
        _check_paths(manifest)
        for entry in manifest.entries:
            path = _new(state, place_of(entry.path) or CONFIG)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders.add(path.parent)
            mode = entry.mode & 0o700 if entry.path != CONFIG else entry.mode & 0o755
            with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
                for piece in archive.read_file(file, entry):
                    out.write(piece)
                out.flush()
                os.fchmod(out.fileno(), mode)
                os.fsync(out.fileno())
        archive.read_end(file)
    for folder in folders:
        for place in (folder, *folder.parents):
            sync(place)
            if place == state:
                break
    return manifest


def _check_databases(state: Path) -> None:
    for name, migrations in zip(DATABASES, (JOBS, (REPORTS,)), strict=True):
        if (path := _new(state, name)).exists():
            check_copy(path, migrations)


def _give(state: Path) -> None:
    """To the user whose the state is, where root restores."""
    owner = state.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for draft in (_draft(state, ""), _draft(state, MODELS)):
        for path in (draft, *draft.rglob("*")):
            with suppress(FileNotFoundError):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _plan(state: Path) -> bytes:
    places = [place for place in PLACES if _new(state, place).exists()]
    for place in places:  # where they go to
        (state / place).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    removed = [place for place in PLACES if place not in places]
    return msgspec.json.encode(Plan(places, removed))


def _discard(state: Path) -> None:
    for draft in (_draft(state, ""), _draft(state, MODELS)):
        shutil.rmtree(draft, ignore_errors=True)


# From here on it counts


def _finish(state: Path, config: Path | None) -> Path | None:
    """Do what is left of a plan, if there is one; where the configuration was put."""
    path = _draft(state, "") / PLAN
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        raise StoreBroken(f"{path} cannot be read", hint=f"rm {path}, and restore again") from None
    for place in PLACES:
        if place in plan.removed or place in plan.places:
            _put(state, place, stays=place in plan.places)
    for folder in {(state / place).parent for place in PLACES}:
        if folder.is_dir():
            sync(folder)
    placed = _put_config(state, config)
    path.unlink()
    sync(path.parent)
    _discard(state)
    return placed


def _put(state: Path, place: str, *, stays: bool) -> None:
    """Rename the old one away, and the new one to its place; whatever of it was done before."""
    new, here = _new(state, place), state / place
    if stays and not new.exists():
        return
    if os.path.lexists(here):
        old = _draft(state, place) / "old" / place
        old.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(here, old)
    if stays:
        os.rename(new, here)


def _put_config(state: Path, target: Path | None) -> Path | None:
    """To its place if that is free, else beside the one in force, unless it says the same."""
    new = _new(state, CONFIG)
    if target is None or not new.exists():
        return None
    body = new.read_bytes()
    if target.exists() and target.read_bytes() == body:
        return target
    if target.exists():
        target = target.with_name(f"{target.name}.restored")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, body, mode=new.stat().st_mode & 0o777)
    except OSError as error:
        beside = state / "edge.yaml.restored"
        logger.warning("%s cannot be written (%s): it is in %s", target, error, beside)
        write_atomically(beside, body, mode=0o600)
        return beside
    return target
