"""Prefixes that outlive the process: a folder with one file each, written in the background.

    <root>/<model>-<settings>/<prefix>.kv   what `MAGIC` and `_Header` say, then the state
    <root>/<model>-<settings>/*.part        being written; removed at the next start
    <root>/models/<path>.json               the digest of a model's file, while that stays the same

A file gets its name when it is whole and on disk. It is believed only if all of it agrees with its
checksums; one that does not is removed. Several workers may use one root: each has a folder of
its own for its model and settings, and whoever writes makes room among the files of all.

The engine's thread calls the methods; the writer's thread alone changes what is on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from edge.disk import sha256_of, write_atomically
from edge.engine.backend import Snapshot
from edge.engine.prefix import Prefix
from edge.loops import QuietLog

logger = logging.getLogger(__name__)

MAGIC = b"edge prefix 1\n\0\0"
SIZES = struct.Struct("<II")
"""Bytes of the header behind it, and their CRC-32."""

LARGEST_HEADER = 16 << 20
MOST_UNWRITTEN = 4
"""Prefixes that wait to be written; more are not, and get another chance when they are used."""

USE_SECONDS = 3600.0
"""A use keeps a file for so much longer than one that was used as lately."""

MOST_USES = 24 * 7
TOUCH_SECONDS = 600.0
"""Uses sooner than this after each other are not written down."""

RETRY_SECONDS = 60.0
"""Pause after a disk refused a file."""

RESERVE_BYTES = 64 << 20
"""Room on the file system that is left to what matters more."""


class _Header(msgspec.Struct, array_like=True):
    """digest: BLAKE2b of the `size` bytes of state."""

    owner: str
    tokens: list[int]
    prompt: int
    shared: int
    size: int
    digest: bytes


class _Model(msgspec.Struct):
    """A model's file, and its digest for as long as size and time of change stay the same."""

    path: str
    size: int
    changed_ns: int
    sha256: str


_decoder = msgspec.msgpack.Decoder(_Header)


class PrefixFiles:
    """settings: all but the model that decides what the bytes of a state mean.
    budget: bytes of all files below `root`."""

    def __init__(self, root: Path, model: Path, settings: str, budget: int) -> None:
        self.root = root
        self.model = model
        self.settings = settings
        self.budget = budget
        self.folder: Path | None = None
        self._found: queue.SimpleQueue[Prefix] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(MOST_UNWRITTEN)
        self._touched: dict[Path, float] = {}
        self._refused_until = 0.0
        self._log = QuietLog("prefixes are not kept on disk")
        self._thread = threading.Thread(target=self._run, name="prefixes", daemon=True)

    def start(self) -> None:
        """Know of the files at once where the model's digest is known, else after a while."""
        with self._quietly():
            if digest := self._known_digest():
                self._open(digest)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Write what is waiting, for so long at most."""
        self._work.put(None)
        self._thread.join(seconds)

    def found(self) -> Iterator[Prefix]:
        """What was found since the last call, with no state yet."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._found.get_nowait()

    def save(self, prefix: Prefix) -> None:
        data = prefix.data
        if data is None or not self._room.acquire(blocking=False):
            return
        prefix.saving = True
        self._work.put(lambda: self._save(prefix, data))

    def touch(self, file: Path, uses: int) -> None:
        """It was used: those that were not go first."""
        self._work.put(lambda: self._touch(file, uses))

    def remove(self, file: Path) -> None:
        self._work.put(lambda: file.unlink(missing_ok=True))

    def load(self, prefix: Prefix) -> Snapshot | None:
        """The state, or None where the file is not what it was."""
        assert prefix.file is not None
        try:
            with open(prefix.file, "rb") as file:
                header = _read_header(file)
                data = np.fromfile(file, np.uint8, header.size)
        except FileNotFoundError:
            return None  # another worker made room
        except (OSError, ValueError) as error:
            logger.warning("%s: removed: %s", prefix.file, error)
            return None
        same = (header.owner, header.tokens) == (prefix.owner, prefix.tokens)
        if not same or _digest(data.data) != header.digest:
            logger.warning("%s: removed: its contents are not what was written", prefix.file)
            return None
        return data

    def _run(self) -> None:
        if self.folder is None:
            with self._quietly():
                self._open(self._compute_digest())
        while (work := self._work.get()) is not None:
            with self._quietly():
                work()

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        """A disk that is full, read-only or broken takes nothing but the saving."""
        try:
            yield
        except OSError as error:
            self._log.error(error)
        except Exception:
            logger.exception("a prefix could not be kept on disk")

    def _open(self, digest: str) -> None:
        settings = hashlib.sha256(self.settings.encode()).hexdigest()
        folder = self.root / f"{digest[:24]}-{settings[:16]}"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for part in folder.glob("*.part"):
            part.unlink(missing_ok=True)
        self._make_room(0)
        for path in sorted(folder.glob("*.kv")):
            try:
                with open(path, "rb") as file:
                    header = _read_header(file)
            except (OSError, ValueError) as error:
                logger.warning("%s: removed: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            prefix = Prefix(header.owner, header.tokens, None, header.size, header.prompt)
            prefix.shared, prefix.file = header.shared, path
            self._found.put(prefix)
        self.folder = folder

    def _save(self, prefix: Prefix, data: Snapshot) -> None:
        try:
            if self.folder is None or time.monotonic() < self._refused_until:
                return
            owner, tokens = prefix.owner, prefix.tokens
            name = _digest(msgspec.msgpack.encode([owner, tokens])).hex()
            header = msgspec.msgpack.encode(
                _Header(owner, tokens, prefix.prompt, prefix.shared, data.size, _digest(data.data))
            )
            head = MAGIC + SIZES.pack(len(header), zlib.crc32(header)) + header
            if self._make_room(len(head) + data.size):
                path = self.folder / f"{name}.kv"
                write_atomically(path, head, data.data, mode=0o600)
                prefix.file = path
                self._log.recovered()
        except OSError:
            self._refused_until = time.monotonic() + RETRY_SECONDS
            raise
        finally:
            prefix.saving = False
            self._room.release()

    def _touch(self, file: Path, uses: int) -> None:
        """The time of change is what a file is worth: when it was used, and the later the more
        often it was."""
        now = time.time()
        if now - self._touched.get(file, 0.0) < TOUCH_SECONDS:
            return
        self._touched[file] = now
        with contextlib.suppress(FileNotFoundError):
            worth = now + USE_SECONDS * min(uses, MOST_USES)
            os.utime(file, (now, max(worth, file.stat().st_mtime)))

    def _make_room(self, size: int) -> bool:
        """Remove the files worth least, of any model, until so many bytes fit; False if they
        cannot."""
        spare = os.statvfs(self.root)
        if size > self.budget or spare.f_bavail * spare.f_frsize < size + RESERVE_BYTES:
            return False
        files = [(one, path) for path in self.root.glob("*/*.kv") if (one := _facts(path))]
        total = sum(facts.st_size for facts, _ in files)
        for facts, path in sorted(files, key=lambda entry: entry[0].st_mtime):
            if total + size <= self.budget:
                break
            path.unlink(missing_ok=True)
            total -= facts.st_size
        return True

    def _known_digest(self) -> str | None:
        try:
            model = msgspec.json.decode(self._note().read_bytes(), type=_Model)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        facts = self.model.stat()
        now = (str(self.model), facts.st_size, facts.st_mtime_ns)
        return model.sha256 if (model.path, model.size, model.changed_ns) == now else None

    def _compute_digest(self) -> str:
        """Read all of the model's file, and remember what came of it."""
        facts = self.model.stat()  # before: a file that changes meanwhile is read again next time
        sha256 = sha256_of(self.model)
        model = _Model(str(self.model), facts.st_size, facts.st_mtime_ns, sha256)
        note = self._note()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(note, msgspec.json.encode(model), mode=0o600)
        return sha256

    def _note(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.model)).hexdigest()[:24]
        return self.root / "models" / f"{name}.json"


def _read_header(file: BinaryIO) -> _Header:
    """Raises ValueError for what is not a whole file of this format."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("not a prefix of this version")
    sizes = file.read(SIZES.size)
    if len(sizes) < SIZES.size:
        raise ValueError("cut short")
    length, checksum = SIZES.unpack(sizes)
    raw = file.read(length) if length <= LARGEST_HEADER else b""
    if len(raw) != length or zlib.crc32(raw) != checksum:
        raise ValueError("its head is damaged")
    try:
        header = _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"its head is of another version: {error}") from None
    if os.fstat(file.fileno()).st_size != file.tell() + header.size:
        raise ValueError("cut short")
    return header


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
