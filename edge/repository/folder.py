"""Model folders in Triton's layout: `<models>/<name>/<version>/model.onnx`, with a config.pbtxt, a
model.yaml and what that names beside the versions.

Looked at whenever it is asked, and read anew where something has changed: what was copied in counts
from the next load on.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from edge.errors import BadModelFile, ModelNotFound
from edge.repository.manifest import LARGEST, Manifest, read_manifest
from edge.repository.triton import TritonConfig, read_config

RESERVED = {"blobs", "names", "canaries", "bundles", "catalog.d", "wheels"}
"""What the models directory has of its own (docs/architecture.md)."""

CONFIG, MANIFEST = "config.pbtxt", "model.yaml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class ModelFolder(msgspec.Struct, frozen=True):
    """versions: those that may be asked for, in ascending order, never none."""

    name: str
    path: Path
    manifest: Manifest
    config: TritonConfig | None
    versions: list[int]

    def version(self, wanted: int | None) -> int:
        """That one, or the highest. Raises `ModelNotFound`."""
        if wanted is None:
            return self.versions[-1]
        if wanted not in self.versions:
            there = ", ".join(map(str, self.versions))
            raise ModelNotFound(
                f"the model `{self.name}` has no version {wanted}; there is {there}", param="model"
            )
        return wanted

    def file(self, version: int) -> Path:
        name = self.config.file if self.config is not None else "model.onnx"
        return self.path / str(version) / name


class Repository:
    """All model folders of a directory. Its methods wait for the disk."""

    def __init__(self, models: Path) -> None:
        self.directory = models
        self._read: dict[str, tuple[_Signature, ModelFolder | BadModelFile]] = {}

    def names(self) -> list[str]:
        """Those that look like a model, whether or not they are in order."""
        try:
            entries = [entry for entry in os.scandir(self.directory) if entry.is_dir()]
        except OSError:
            return []
        return sorted(one.name for one in entries if self._looks_like_one(one.name))

    def read(self, name: str) -> ModelFolder:
        """Raises `ModelNotFound`, and `BadModelFile` with the file and the place at fault."""
        if not self._looks_like_one(name):
            self._read.pop(name, None)
            raise ModelNotFound(f"the model `{name}` is not installed", param="model")
        path = self.directory / name
        try:
            signature = _signature(path)
            if name not in self._read or self._read[name][0] != signature:
                self._read[name] = signature, _outcome(path.resolve(), name)
        except OSError as error:
            raise BadModelFile(f"{name}: cannot be read: {error}") from None
        found = self._read[name][1]
        if isinstance(found, BadModelFile):
            raise BadModelFile(found.message, hint=found.hint)
        return found

    def _looks_like_one(self, name: str) -> bool:
        if name in RESERVED or not _NAME.fullmatch(name):
            return False
        path = self.directory / name
        if (path / CONFIG).is_file() or (path / MANIFEST).is_file():
            return True
        try:
            return path.is_dir() and any(_versions(path))
        except OSError:
            return False


def _outcome(path: Path, name: str) -> ModelFolder | BadModelFile:
    try:
        return _folder(path, name)
    except BadModelFile as error:
        return error


def _folder(path: Path, name: str) -> ModelFolder:
    config, manifest = None, Manifest()
    if (text := _text(path / CONFIG, name)) is not None:
        try:
            config = read_config(text, name)
        except BadModelFile as error:
            raise _at(name, CONFIG, error) from None
    if (text := _text(path / MANIFEST, name)) is not None:
        try:
            manifest = read_manifest(text)
        except BadModelFile as error:
            raise _at(name, MANIFEST, error) from None
    folder = ModelFolder(name, path, manifest, config, [])
    there = sorted(version for version in _versions(path) if folder.file(version).is_file())
    served = config.versions.chosen(there) if config is not None else there
    if not served:
        wanted = folder.file(1).name
        what = "its version_policy leaves none" if there else f"there is no <version>/{wanted}"
        raise BadModelFile(
            f"{name}: no version of it can be served: {what}",
            hint=f"put the model at {path}/1/{wanted}",
        )
    return msgspec.structs.replace(folder, versions=served)


_Signature = list[tuple[str, int, int]]


def _signature(path: Path) -> _Signature:
    """Changes with everything that `_folder` reads. Raises `OSError`."""
    found = []
    for entry in os.scandir(path):
        if entry.name in (CONFIG, MANIFEST) or _VERSION.fullmatch(entry.name):
            facts = entry.stat()
            found.append((entry.name, facts.st_mtime_ns, facts.st_size))
    return sorted(found)


def inside(folder: Path, name: str, field: str) -> Path:
    """The file that a manifest names, which has to be in the model's folder.

    field: where it is named. Raises `BadModelFile`.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadModelFile(f"`{field}`: {name} is outside of the model's folder")
    if not path.is_file():
        raise BadModelFile(f"`{field}`: there is no file {name} in the model's folder")
    return path


def _versions(path: Path) -> list[int]:
    return [
        int(entry.name)
        for entry in os.scandir(path)
        if _VERSION.fullmatch(entry.name) and entry.is_dir()
    ]


def _text(path: Path, name: str) -> str | None:
    """None where there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST + 1).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BadModelFile(f"{name}/{path.name}: not a text in UTF-8") from None


def _at(name: str, file: str, error: BadModelFile) -> BadModelFile:
    return BadModelFile(f"{name}/{file}: {error.message}", hint=error.hint)
