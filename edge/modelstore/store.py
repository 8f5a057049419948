"""The directory of installed models, and the only code that writes to it.

    <dir>/<name>.gguf       a model; what stands here is whole, because it gets here by rename
    <dir>/<name>.json       its manifest: where it came from; a model copied in by hand has none
    <dir>/.partial/<name>/  what a pull is working on; never taken for a model
    <dir>/.partial/<name>.lock

Any number of processes may use one directory: readers only ever see whole files, and writers of
the same model take turns through the lock.
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge.disk import sync
from edge.errors import ModelNotFound
from edge.modelstore.catalog import load_catalog

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")

logger = logging.getLogger(__name__)


class Manifest(msgspec.Struct, frozen=True):
    """Where an installed file came from. size: in bytes; revision: what the source calls it."""

    source: str
    sha256: str
    size: int
    licence: str
    pulled_at: datetime.datetime
    revision: str | None = None


class Installed(msgspec.Struct, frozen=True):
    """A model in the directory. manifest: None when it was copied in by hand."""

    name: str
    path: Path
    size: int
    manifest: Manifest | None


class ModelStore:
    """See the head of this file for the layout."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def installed(self) -> list[Installed]:
        """All models, by name."""
        found = []
        for path in sorted(self.directory.glob("*.gguf")):
            if not _NAME.fullmatch(path.stem):
                logger.warning("%s: no model can have this name; rename the file", path)
            elif model := self.find(path.stem):
                found.append(model)
        return found

    def find(self, name: str) -> Installed | None:
        """The model of that name, or None when it is not installed."""
        path = self._place(name, ".gguf")
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        return Installed(name, path, size, self._manifest(name)) if path.is_file() else None

    def path(self, name: str) -> Path:
        """The file of an installed model. Raises `ModelNotFound`."""
        model = self.find(name)
        if model is not None:
            return model.path
        if name in load_catalog():
            hint = f"edge models pull {name}"
        else:
            names = ", ".join(model.name for model in self.installed())
            hint = f"installed models: {names}" if names else "edge models list"
        raise ModelNotFound(f"the model {name!r} is not installed", param="model", hint=hint)

    def add(self, name: str, temp_file: Path, manifest: Manifest) -> Path:
        """Move a checked file in as a model. It must be on the file system of the directory.

        A power cut leaves the model either absent or whole: its bytes are on disk before its name
        is. The manifest goes first, because a manifest alone is no model.
        """
        path = self._place(name, ".gguf")
        self.directory.mkdir(parents=True, exist_ok=True)
        draft = temp_file.with_name(temp_file.name + ".manifest")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        for source, target in ((draft, self._place(name, ".json")), (temp_file, path)):
            sync(source)
            os.replace(source, target)
        sync(self.directory)
        return path

    @contextmanager
    def claim(self, name: str) -> Iterator[Path]:
        """Hold the sole right to change one model; yields the folder to prepare its file in.

        Waits for another process or thread that has it. The folder keeps what an earlier attempt
        left in it.
        """
        self._place(name, ".gguf")
        folder = self.directory / ".partial" / name
        folder.mkdir(parents=True, exist_ok=True)
        # The lock file stays: to remove it would let two waiters lock two different files.
        with open(folder.with_name(f"{name}.lock"), "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another pull of %s", name)
                fcntl.flock(lock, fcntl.LOCK_EX)
            folder.mkdir(exist_ok=True)  # the one that we waited for may have cleared it away
            yield folder

    def _place(self, name: str, suffix: str) -> Path:
        # Names come from requests: one that could lead out of the directory is not looked up.
        if not _NAME.fullmatch(name):
            raise ModelNotFound(
                f"no model can be called {name!r}",
                param="model",
                hint="names have letters, digits and . _ + @ -",
            )
        return self.directory / f"{name}{suffix}"

    def _manifest(self, name: str) -> Manifest | None:
        path = self._place(name, ".json")
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s: ignored: %s", path, error)
            return None
