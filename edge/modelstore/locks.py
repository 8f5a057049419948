"""Turns between processes, by flock: the kernel takes a lock back however its holder dies.

A lock belongs to an open file, so threads of one process take turns as processes do. Files are
opened for reading only: the daemon and an administrator's command may be different users.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """The sole right to what a lock file stands for. Makes the file; waits for its holder.

    The file stays: to remove it would let two waiters lock two different files.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        if not _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            logger.info("waiting for another process: %s", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether nobody has a lock on the file; if so, nobody gets one inside the block.

    Never waits. False for a file that is not there, or cannot be locked.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


@contextmanager
def shared(path: Path) -> Iterator[bool]:
    """Keep the file from whoever wants to be alone with it. Waits for one that is.

    False when the name has come to mean another file, or none, before the lock was there.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError as error:  # then nobody can be alone with it either
            logger.warning("%s cannot be locked: %s", path, error)
        yield _is(path, handle)
    finally:
        os.close(handle)


def _locked(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except OSError:  # held by another, or a file system that has no locks
        return False
    return True


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
