"""A database as it is at one moment, while others write to it; and whether such a copy can be used.

For backups. Blocking.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edge.disk import sync
from edge.errors import BackupRefused, StoreTooNew
from edge.store import file


def copy_database(source: Path, target: Path) -> None:
    """By SQLite's backup API, which reads one snapshot and keeps no writer waiting.

    The copy is one file, without a log. Raises `StoreBroken`, `StoreFull`, `OSError`.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(file.connect_reader(source)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise file.explain(error, source) from error
    sync(target)


def check_copy(path: Path, migrations: Sequence[str]) -> None:
    """That a daemon of this version could go on with it. Raises `BackupRefused`."""
    try:
        damage = file.examine(path, len(migrations))
    except StoreTooNew as error:
        hint = "restore it with the version that made it, or a later one"
        raise BackupRefused(error.message, hint=hint) from None
    if damage:
        raise BackupRefused(f"{path.name} is damaged: {damage}", hint="take an older backup")
