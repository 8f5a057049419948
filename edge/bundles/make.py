"""Making a bundle of what this machine has. Blocking."""

from __future__ import annotations

import os
import re
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge.bundles import archive
from edge.bundles.keys import SigningKey
from edge.bundles.manifest import (
    ANY,
    FORMAT,
    MOST_BYTES,
    BundleManifest,
    Carried,
    Kind,
    Member,
    decode,
    encode,
    path_of,
)
from edge.config import reader
from edge.disk import sha256_of, sync
from edge.errors import BundleRefused
from edge.modelstore.catalog import load_catalog
from edge.modelstore.gguf import read_installable
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.versions import now
from edge.modelstore.workspace import Progress, unwatched

_TAGS = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._+-]*-[^-]+-(?P<abi>[^-]+)-"
    r"(?:any|\S*linux\w*?(?:_\d+|\d*)_(?P<machine>[a-z]\w*))\.whl"
)
"""The end of a wheel's name. The architecture is that of its last platform tag."""


class Contents(msgspec.Struct, frozen=True):
    """What goes into a bundle.

    active, waiting: models of the store, NAME or NAME@VERSION; a waiting one is installed and not
    used yet. catalog: as models/catalog.yaml. architecture: None for that of the wheels.
    """

    name: str
    version: int
    active: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    catalog: Path | None = None
    config: Path | None = None
    wheels: tuple[Path, ...] = ()
    architecture: str | None = None


def make(
    path: Path,
    contents: Contents,
    key: SigningKey,
    store: ModelStore,
    progress: Progress = unwatched,
) -> BundleManifest:
    """Write the file; it has its name when it is whole.

    Raises `BundleRefused`, `ModelNotFound`, `BadModelFile`, `ConfigError`, `OSError`.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with ExitStack() as held:
        collection = _Collection(contents, store, held)
        manifest = collection.manifest()
        try:
            with open(part, "wb") as file:
                _write(file, manifest, collection.sources, key, progress)
            sync(part)
            os.replace(part, path)
            sync(path.absolute().parent)
        finally:
            part.unlink(missing_ok=True)
    return manifest


class _Collection:
    """sources: where each file of the bundle is, by its path in it."""

    def __init__(self, contents: Contents, store: ModelStore, held: ExitStack) -> None:
        self.contents = contents
        self.sources: dict[str, Path] = {}
        self._files: list[Member] = []
        self._models: list[Carried] = []
        self._architectures = {contents.architecture} if contents.architecture else set[str]()
        self._pythons = set[str]()
        for name in (*contents.active, *contents.waiting):
            model = held.enter_context(store.hold(name))
            self._add_model(model, activate=name in contents.active)
        if contents.catalog:
            load_catalog(contents.catalog)
            self._add("catalog", contents.catalog)
        if contents.config:
            reader.load(str(contents.config), environ={})
            self._add("config", contents.config)
        for wheel in sorted(contents.wheels):
            self._add_wheel(wheel)

    def manifest(self) -> BundleManifest:
        """Raises `BundleRefused` for names and numbers that no bundle can have."""
        if not self._files:
            raise BundleRefused("there is nothing in it", hint="edge bundle make --help")
        made = BundleManifest(
            FORMAT,
            self.contents.name,
            self.contents.version,
            now(),
            _only(self._architectures, "architecture") or ANY,
            _only(self._pythons, "Python"),
            self._files,
            self._models,
        )
        return decode(encode(made))

    def _add_model(self, model: Installed, activate: bool) -> None:
        read_installable(model.path)
        known = model.manifest
        sha256 = known.sha256 if known else sha256_of(model.path)
        if sha256 not in {one.sha256 for one in self._models}:
            self._add("model", model.path, sha256)
        carried = Carried(model.name, sha256, activate)
        if known:
            carried = msgspec.structs.replace(
                carried,
                source=known.source,
                licence=known.licence,
                revision=known.revision,
                memory_bytes=known.memory_bytes,
            )
        self._models.append(carried)

    def _add_wheel(self, path: Path) -> None:
        tags = _TAGS.fullmatch(path.name)
        if tags is None or not zipfile.is_zipfile(path):
            raise BundleRefused(f"{path} is no wheel for Linux", hint="pip download makes them")
        if tags["machine"]:
            self._architectures.add(tags["machine"])
        if tags["abi"].startswith("cp"):  # abi3 and none go with later ones too
            self._pythons.add(tags["abi"])
        self._add("wheel", path)

    def _add(self, kind: Kind, path: Path, sha256: str | None = None) -> None:
        size = path.stat().st_size
        if kind in ("catalog", "config") and size > MOST_BYTES:
            raise BundleRefused(f"{path} is too large for a {kind}", hint="look at what it is")
        sha256 = sha256 or sha256_of(path)
        member = Member(kind, path_of(kind, sha256, path.name), size, sha256)
        self._files.append(member)
        self.sources[member.path] = path


def _write(
    file: BinaryIO,
    manifest: BundleManifest,
    sources: dict[str, Path],
    key: SigningKey,
    progress: Progress,
) -> None:
    content = encode(manifest)
    for path, head in ((archive.MANIFEST, content), (archive.SIGNATURE, key.sign(content))):
        archive.write_file(file, path, len(head), iter([head]))
    meter = archive.Meter(progress, manifest.size)
    for member in manifest.files:
        with open(sources[member.path], "rb") as source:
            pieces = meter.passing(archive.pieces_of(source))
            digest = archive.write_file(file, member.path, member.size, pieces)
        if digest != member.sha256:
            raise BundleRefused(
                f"{sources[member.path]} is not what it was when it was installed, or changed now",
                hint="pull or import the model again: edge models pull NAME",
            )
    archive.write_end(file)


def _only(found: set[str], what: str) -> str | None:
    if len(found) > 1:
        raise BundleRefused(
            f"its wheels are for more than one {what}: {', '.join(sorted(found))}",
            hint=f"make a bundle for each {what}",
        )
    return next(iter(found), None)
