"""The file under a database: created, examined, set aside when damaged, migrated.

Called on the writer's thread, before anything else has the file open. A file is never deleted
and a damaged one never written to, so that whatever is left of it can be looked at later; but for
files that are called disposable.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

from edge.disk import sync
from edge.errors import EdgeError, StoreBroken, StoreFull, StoreInUse, StoreTooNew

logger = logging.getLogger(__name__)

OLDEST_SQLITE = (3, 37, 0)
"""Ubuntu 22.04's. RETURNING came with 3.35, STRICT tables with 3.37."""

Synchronous = Literal["FULL", "NORMAL"]
"""What a commit waits for: a sync of the log, or nothing. Without it a power cut may take the
latest commits, never a part of one; the end of the process takes none."""
_LEVELS = {"FULL": 2, "NORMAL": 1}

_BUSY_SECONDS = 5.0
# 16 MB of log. Whoever commits when it is reached waits for its move into the file: rarely.
_CHECKPOINT_PAGES = 4000
# After a burst the write-ahead log shrinks back to this.
_LOG_BYTES = 32 << 20
_NO_ROOM = 256 << 10
_WAL_VERSIONS = (1, 2)


def explain(error: Exception, path: Path) -> Exception:
    """The typed error for one of SQLite's; any other error is returned as it is.

    By SQLite's message, because Python 3.10 gives no error code.
    """
    if not isinstance(error, sqlite3.DatabaseError):
        return error
    text = str(error)
    # Room for the shared-memory file is asked for in a way that ends as an I/O error.
    if "is full" in text or ("disk I/O" in text and _free_bytes(path.parent) < _NO_ROOM):
        return StoreFull(
            f"no room on the disk for {path}", hint="free some space", retry_after=10.0
        )
    if _is_damage(error):
        return StoreBroken(
            f"{path} is damaged: {text}", hint="restart: a damaged file is set aside at start"
        )
    environment = ("disk I/O", "locked", "unable to open", "readonly", "authoriz")
    if any(word in text for word in environment):
        return StoreBroken(
            f"{path} cannot be used: {text}",
            hint="check the disk, and who owns the folder",
            retry_after=10.0,
        )
    return error


def lock(path: Path) -> int:
    """Take the file for this process. Raises `StoreInUse`. Freed by closing the descriptor.

    A file of its own, because SQLite's locks on the database would be lost as soon as any other
    descriptor of it is closed in this process (POSIX).
    """
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StoreInUse(
            f"{path} is in use by another process", hint="stop the other `edge serve`"
        ) from None
    return handle


def make_folder(folder: Path) -> None:
    """Create it with its parents, each entry synced, so that a power cut leaves all of it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    sync(folder.parent)


def prepare(
    path: Path,
    migrations: Sequence[str],
    synchronous: Synchronous = "FULL",
    disposable: bool = False,
) -> tuple[sqlite3.Connection, Path | None]:
    """The writer's connection to a sound file of the newest schema, created if there is none.

    Also returns where a damaged file was put, None if there was none. Migration i brings the file
    from version i to i + 1. A disposable file that is damaged or too new is removed.
    Raises `StoreTooNew`, `StoreFull` and `StoreBroken`.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreBroken(
            f"SQLite {sqlite3.sqlite_version} is too old",
            hint=f"{'.'.join(map(str, OLDEST_SQLITE))} or later is needed",
        )
    aside = None
    try:
        if disposable:
            _remove_useless(path, len(migrations))
        elif path.exists() and (damage := examine(path, len(migrations))):
            aside = set_aside(path)
            logger.error(
                "%s is damaged (%s). It was set aside as %s and an empty one is started:"
                " WHAT WAS IN IT IS NOT SERVED ANY MORE",
                *(path, damage, aside),
            )
        if not path.exists():
            # By hand, because SQLite would let everybody read it. 0 bytes are an empty database.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync(path.parent)
        connection = connect(path, synchronous)
        try:
            _migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explain(error, path) from error
    except OSError as error:
        raise StoreBroken(f"{path} cannot be used: {error}", hint="check the folder") from error
    return connection, aside


def examine(path: Path, newest: int) -> str | None:
    """What is wrong with the file, None if it is sound.

    Reads only: closing a writing connection would move the write-ahead log into a damaged file.
    Raises `StoreTooNew`, and `StoreBroken` where it is not the file that is at fault.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return None
    if not header.startswith(b"SQLite format 3\0"):
        return "it does not begin like a database"
    # SQLite takes an unknown version for a read-only file, or refuses it as a mere error.
    if header[18] not in _WAL_VERSIONS or header[19] not in _WAL_VERSIONS:
        return "its header is not a database's"
    try:
        with closing(_open(path, "ro")) as connection:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            answers = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(explain(error, path), EdgeError) and not _is_damage(error):
            raise
        return f"SQLite cannot read it: {error}"
    except UnicodeDecodeError as error:
        # Damaged text in the schema, which SQLite's message quotes. Python 3.10 leaves it empty.
        return f"its schema is not text: {error}"
    if answers != ["ok"]:
        return "; ".join(answers)
    if version > newest:
        raise StoreTooNew(
            f"{path} has schema version {version}, this software knows up to {newest}",
            hint="install the newer version again, or move the file away to start empty",
        )
    return None


def set_aside(path: Path) -> Path:
    """Rename the file and its log to a dated name, and return that."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = [path.with_name(f"{path.name}.damaged-{stamp}")]
    while names[-1].exists():
        names.append(path.with_name(f"{names[0].name}-{len(names)}"))
    aside = names[-1]
    # The database first: without its log it might pass for a sound one that lacks the latest
    # rows. A log without its database is dropped by SQLite when that is created anew.
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    sync(path.parent)
    return aside


def _remove_useless(path: Path, newest: int) -> None:
    """Remove a file that is damaged or of a later version, with its log."""
    try:
        reason = examine(path, newest) if path.exists() else None
    except StoreTooNew as error:
        reason = error.message
    if reason:
        logger.warning("%s is of no use (%s) and is begun anew", path, reason)
        # The log last: without its database SQLite drops it.
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


def connect(path: Path, synchronous: Synchronous = "FULL") -> sqlite3.Connection:
    """A writing connection to an existing file: WAL, commits synced or not, foreign keys kept."""
    connection = _open(path, "rw")
    try:
        # Only heeded while the file is still empty.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        connection.execute("PRAGMA foreign_keys = ON")
        (foreign_keys,) = connection.execute("PRAGMA foreign_keys").fetchone()
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        connection.close()
        raise
    if (mode, level, foreign_keys) != ("wal", _LEVELS[synchronous], 1):
        connection.close()
        raise StoreBroken(
            f"{path}: SQLite keeps journal_mode={mode}, synchronous={level},"
            f" foreign_keys={foreign_keys}",
            hint="the state directory must be on a local file system",
        )
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, to a file that a writer has prepared.

    It takes part in the log's shared index from the start, so that the index outlives the writer's
    connection, should that have to be renewed.
    """
    connection = _open(path, "ro")
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
    )
    # Savepoints keep what they may have to take back in a temporary file; /tmp may be full.
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(migrations[version:], start=version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            typed = explain(error, path)
            if isinstance(typed, EdgeError):
                raise typed from error
            raise StoreBroken(
                f"{path} cannot be brought to schema version {number}: {error}",
                hint="it is unchanged: install the previous version again, and report this",
            ) from error
    if 0 < version < len(migrations):
        logger.info("%s: migrated from schema %d to %d", path, version, len(migrations))


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return any(word in str(error) for word in ("malformed", "not a database"))


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
