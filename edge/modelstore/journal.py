"""Several changes on disk that count together: a list of renames that is carried out to its end.

What is to appear is prepared beside its place, whole and synced. The journal, written last, is the
moment from which all of it counts. Whoever has the store's turn next finishes what a killed
process left (`ModelStore.turn`), so nobody changes a store that is half-way.

A rename takes no room, so a disk that has filled up meanwhile does not stand in the way.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import msgspec

from edge.disk import sync, write_atomically
from edge.errors import StoreBroken

logger = logging.getLogger(__name__)


class Journal(msgspec.Struct, frozen=True):
    """what: for people. renames: (from, to) of files, in order; removals: files and folders.

    All paths are absolute. A file that is to be renamed is not there twice.
    """

    what: str
    renames: list[tuple[str, str]]
    removals: list[str]


def commit(path: Path, journal: Journal) -> None:
    """Carry out all of it; after a power cut or SIGKILL it is all or nothing once `finish` ran.

    All folders are there and synced, and the caller has the store's turn. Raises `OSError` when
    nothing was done, else as `finish`.
    """
    try:
        write_atomically(path, msgspec.json.encode(journal))
    except OSError:
        path.unlink(missing_ok=True)  # it may stand there, and the folder could not be synced
        raise
    finish(path)


def finish(path: Path) -> None:
    """Do what is left of a journal, if there is one. The caller has the store's turn.

    Raises `StoreBroken` for one that cannot be carried on; it stays, to be tried again.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    try:
        journal = msgspec.json.decode(content, type=Journal)
        _check_places(path.parent, journal)
        if _is_for_another_user(journal):
            logger.warning("%s: undone, for this user may not do it", journal.what)
        else:
            _carry_out(journal)
            logger.info("%s: done", journal.what)
        path.unlink()
        sync(path.parent)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreBroken(
            f"what {path} says cannot be finished: {error}",
            hint="try as the user who began it, such as root: edge models gc",
        ) from None


def stage_name(name: str) -> str:
    """What a file outside the store is called while it waits beside its place."""
    return f".{name}.bundle"


def _check_places(store: Path, journal: Journal) -> None:
    """That all of it is within the store, or beside the file that it replaces.

    The daemon's user may write a journal, and root may be the next to find it. Raises `OSError`.
    """

    def outside(place: str) -> bool:
        folder = Path(os.path.realpath(os.path.dirname(place)))
        return not folder.is_relative_to(store.resolve())

    for here, there in journal.renames:
        folder, name = os.path.split(there)
        staged = os.path.join(folder, stage_name(name.removesuffix(".new")))
        if here != staged and (outside(here) or outside(there)):
            raise PermissionError(errno.EPERM, "no business of the store", there)
    for needless in journal.removals:
        if outside(needless):
            raise PermissionError(errno.EPERM, "no business of the store", needless)


def _carry_out(journal: Journal) -> None:
    for here, there in journal.renames:
        # What is not here any more was renamed by the process that was killed.
        if os.path.exists(here) or not os.path.exists(there):
            os.replace(here, there)
    for folder in sorted({os.path.dirname(there) for _, there in journal.renames}):
        sync(Path(folder))
    for needless in map(Path, journal.removals):
        if needless.is_dir():
            shutil.rmtree(needless)
        else:
            needless.unlink(missing_ok=True)


def _is_for_another_user(journal: Journal) -> bool:
    """Whether nothing was done yet and not all of it can be done by us: then it never began.

    So it is when an administrator's command was killed and the daemon, who may not write to
    /etc, comes next.
    """
    if not os.path.exists(journal.renames[0][0]):
        return False
    folders = {os.path.dirname(place) for pair in journal.renames for place in pair}
    return not all(os.access(folder, os.W_OK) for folder in folders)
