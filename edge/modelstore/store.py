"""The directory of models, and the only code that writes to it.

    <dir>/blobs/sha256-<digest>.gguf   a file by its contents; what stands here is whole and checked
    <dir>/names/<name>.json            what a name stands for (versions.py): this makes it a model
    <dir>/<name>.gguf                  a model that somebody copied in by hand; it wins over a name
    <dir>/<name>.json                  the manifest of such a file, written by releases before 0.2
    <dir>/canaries/<name>.yaml         what a new version of the name is asked (canaries.py)
    <dir>/.partial/<name>/, .lock      what a pull is working on, and its lock; never a model
    <dir>/.partial/.bundle/, .lock     the same for the one bundle that is being installed
    <dir>/catalog.d/<bundle>.yaml      entries beside those of the shipped catalog
    <dir>/bundles/<bundle>.json        which version of a bundle is installed (edge/bundles/)
    <dir>/wheels/<bundle>@<version>/   what it brought for pip
    <dir>/.journal                     changes that count together and are being made (journal.py)
    <dir>/.lock                        held for the moment in which names and blobs change

Any number of processes may use one directory. Readers take no lock: names and blobs only appear
whole, by rename. Who serves a file holds it (`hold`), and what is held is not removed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge.disk import sync
from edge.errors import ModelInUse, ModelNotFound, PullFailed, StoreBroken
from edge.modelstore import journal, versions
from edge.modelstore.catalog import load_catalog
from edge.modelstore.locks import alone, shared, turn
from edge.modelstore.versions import Manifest, Version, Versions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")
_OF_A_VERSION = re.compile(r"(.+)@([1-9][0-9]{0,8})")

DRAFT = ".draft"
"""What the files end with that are made in a claimed folder, of no use once the claim is over."""

logger = logging.getLogger(__name__)


class Installed(msgspec.Struct, frozen=True):
    """A model in the directory.

    manifest, version: None when it was copied in by hand. active: whether its name alone means it.
    """

    name: str
    path: Path
    size: int
    manifest: Manifest | None
    version: int | None = None
    active: bool = True


class ModelStore:
    """See the head of this file for the layout."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs"
        self.names = directory / "names"
        self.partial = directory / ".partial"
        self.draft = self.partial / ".bundle"
        self.catalogs = directory / "catalog.d"
        self.journal = directory / ".journal"

    def installed(self) -> list[Installed]:
        """The model that each name means, by name."""
        found = {}
        for path in (*self.directory.glob("*.gguf"), *self.names.glob("*.json")):
            try:
                if not _NAME.fullmatch(path.stem):
                    logger.warning("%s: no model can have this name; rename the file", path)
                elif model := self.find(path.stem):
                    found[path.stem] = model
            except StoreBroken as error:
                logger.warning("%s", error.message)
        return [found[name] for name in sorted(found)]

    def versions(self, name: str) -> list[Installed]:
        """All files that the name stands or stood for, oldest first. Raises `StoreBroken`."""
        known = self.known(name)
        found = (self._installed(name, known, one) for one in known.versions)
        return [model for model in found if model is not None]

    def find(self, name: str) -> Installed | None:
        """The model of that name, or NAME@VERSION; None when it is not installed.

        Raises `ModelNotFound` for what no model can be called, `StoreBroken`.
        """
        path = self.by_hand(name)
        if path.is_file():
            return Installed(name, path, path.stat().st_size, self._old_manifest(name))
        known = self.known(name)
        if version := known.get(known.active):
            return self._installed(name, known, version)
        if match := _OF_A_VERSION.fullmatch(name):
            known = self.known(match[1])
            if version := known.get(int(match[2])):
                return self._installed(match[1], known, version)
        return None

    def path(self, name: str) -> Path:
        """The file of an installed model. Raises `ModelNotFound`."""
        return self.get(name).path

    def get(self, name: str) -> Installed:
        """As `find`. Raises `ModelNotFound` when it is not installed."""
        model = self.find(name)
        if model is not None:
            return model
        if name in load_catalog(added=self.catalogs):
            hint = f"edge models pull {name}"
        else:
            names = ", ".join(model.name for model in self.installed())
            hint = f"installed models: {names}" if names else "edge models list"
        raise ModelNotFound(f"the model {name!r} is not installed", param="model", hint=hint)

    @contextmanager
    def hold(self, name: str) -> Iterator[Installed]:
        """The model, whose file stays where it is until the end of the block or the process.

        Raises `ModelNotFound`.
        """
        while True:
            model = self.get(name)
            with shared(model.path) as same:
                if same:
                    yield model
                    return

    def add(self, name: str, temp_file: Path, manifest: Manifest) -> Installed:
        """Make a checked file a version of the name; the first one is active at once.

        It must be on the file system of the directory, and its caller hold the claim on the name.
        The same contents again are no new version. After a power cut or SIGKILL at any time the
        version is there, whole, or it is not. Raises `PullFailed`, `ModelInUse`, `OSError`.
        """
        sync(temp_file)
        with self.turn():
            self.make_way(name)
            blob = self.blob(manifest.sha256)
            blob.parent.mkdir(exist_ok=True)
            # A blob of the right size stays: a daemon may hold that very file.
            if not blob.exists() or blob.stat().st_size != manifest.size:
                os.replace(temp_file, blob)
                sync(blob.parent)
            known = self.known(name)
            if known.of_digest(manifest.sha256) is None:
                known = known.added(manifest)
                if known.get(known.active) is None:
                    known = known.activated(known.latest)
                versions.write(self.pointer(name), known)
                sync(self.directory)  # the folders may be new
            self._drop_by_hand(name)  # a damaged one of an earlier release would hide the version
        temp_file.unlink(missing_ok=True)
        version = known.of_digest(manifest.sha256)
        model = self._installed(name, known, version) if version else None
        assert model is not None
        return model

    def activate(self, name: str, number: int, by: str | None = None) -> Installed:
        """Have the name mean that version. by: whom, if not the user of this process.

        Raises `ModelNotFound`.
        """
        with self.turn():
            known = self.known(name)
            version = known.get(number)
            model = self._installed(name, known, version) if version else None
            if model is None or self.by_hand(name).exists():
                raise self._no_version(name, number)
            if number != known.active:
                versions.write(self.pointer(name), known.activated(number, by))
        return msgspec.structs.replace(model, active=True)

    def refuse(self, name: str, number: int, reason: str) -> None:
        """Write down why a version was not served, or given up. Nothing where it is gone."""
        with self.turn():
            known = self.known(name)
            if known.get(number) is not None:
                versions.write(self.pointer(name), known.refused(number, reason))

    def roll_back(self, name: str) -> Installed:
        """Have the name mean what it meant before. Raises `ModelNotFound`."""
        return self.activate(name, self.version_before(name))

    def version_before(self, name: str) -> int:
        """The number of what the name meant before what it means now, leaving out what was given
        up. Raises `ModelNotFound`."""
        previous = self.known(name).previous()
        if previous is None:
            self.get(name)
            raise ModelNotFound(
                f"{name} meant no other version before", param="model", hint="edge models list"
            )
        return previous.number

    def numbered(self, name: str, number: int) -> Installed:
        """That version of the name, whether or not it is active. Raises `ModelNotFound`."""
        found = next((one for one in self.versions(name) if one.version == number), None)
        if found is None:
            raise self._no_version(name, number)
        return found

    def canaries(self, name: str) -> Path:
        """The file of questions for a new version of the name; it need not be there."""
        return self.directory / "canaries" / f"{self.by_hand(name).stem}.yaml"

    def take_over(self) -> None:
        """Make versions of what earlier releases installed. Moves files; copies nothing.

        What is served at the moment stays as it is.
        """
        for path in sorted(self.directory.glob("*.json")):
            if _NAME.fullmatch(path.stem) and self.by_hand(path.stem).is_file():
                with self.turn():
                    self._adopt(path.stem)

    @contextmanager
    def claim(self, name: str) -> Iterator[Path]:
        """Hold the sole right to bring a file for a name; yields the folder to prepare it in.

        Waits for another process or thread that has it. The folder keeps what an earlier attempt
        left in it.
        """
        if _OF_A_VERSION.fullmatch(name):
            raise ModelNotFound(
                f"no new model can be called {name!r}",
                param="model",
                hint="leave out the @VERSION: versions are counted here",
            )
        self.by_hand(name)
        folder = self.partial / name
        folder.mkdir(parents=True, exist_ok=True)
        with turn(self.partial / f"{name}.lock"):
            folder.mkdir(exist_ok=True)  # the one that we waited for may have cleared it away
            yield folder

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the sole right to change names and blobs, which nobody needs for long.

        What another one was killed over is finished first. Raises `StoreBroken` if it cannot be.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with turn(self.directory / ".lock"):
            journal.finish(self.journal)
            yield

    def settle(self) -> None:
        """Finish what another process was killed over, if there is any. Raises `StoreBroken`."""
        if self.journal.exists():
            with self.turn():
                pass

    def known(self, name: str) -> Versions:
        """What the name's file says, whether or not the blobs are there. Raises `StoreBroken`."""
        return versions.read(self.pointer(name))

    def blob(self, sha256: str) -> Path:
        return self.blobs / f"sha256-{sha256}.gguf"

    def by_hand(self, name: str) -> Path:
        """Where a file would be that was copied in under the name. Raises `ModelNotFound`."""
        # Names come from requests: one that could lead out of the directory is not looked up.
        if not _NAME.fullmatch(name):
            raise ModelNotFound(
                f"no model can be called {name!r}",
                param="model",
                hint="names have letters, digits and . _ + @ -",
            )
        return self.directory / f"{name}.gguf"

    def pointer(self, name: str) -> Path:
        return self.names / f"{self.by_hand(name).stem}.json"

    def _installed(self, name: str, known: Versions, version: Version) -> Installed | None:
        path = self.blob(version.manifest.sha256)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return None
        active = version.number == known.active
        return Installed(name, path, size, version.manifest, version.number, active)

    def _no_version(self, name: str, number: int) -> ModelNotFound:
        there = ", ".join(str(model.version) for model in self.versions(name))
        return ModelNotFound(
            f"{name} has no version {number}" + ("" if there else ": it has no versions"),
            param="model",
            hint=f"its versions: {there}" if there else "edge models list",
        )

    def _old_manifest(self, name: str) -> Manifest | None:
        path = self.directory / f"{name}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s: ignored: %s", path, error)
            return None

    def make_way(self, name: str) -> None:
        """See that no file at the top hides the version that is to come. Needs the turn.

        Raises `PullFailed`, `ModelInUse`.
        """
        path, old = self.by_hand(name), self._old_manifest(name)
        if not path.exists():
            return
        if old is None:
            raise PullFailed(
                f"{path} is there already, copied in by hand",
                hint=f"move the file away, or remove it: edge models rm {name}",
            )
        if path.stat().st_size != old.size:
            return  # damaged: it goes when the version is there
        if not self._adopt(name):
            raise ModelInUse(
                f"{path} was installed by an earlier release, and is served now",
                hint="restart the daemon, which takes it over, and try again",
            )

    def _adopt(self, name: str) -> bool:
        """Make a version of an earlier release's file. False where it has to stay as it is.

        The name is written first: until the file has moved it hides the name and means the same.
        """
        path, manifest = self.by_hand(name), self._old_manifest(name)
        if manifest is None or path.is_symlink() or path.stat().st_size != manifest.size:
            return False
        with alone(path) as free:
            if not free:
                return False
            known = self.known(name)
            if known.of_digest(manifest.sha256) is None:
                known = known.added(manifest)
            version = known.of_digest(manifest.sha256)
            assert version is not None
            versions.write(self.pointer(name), known.activated(version.number))
            self.blobs.mkdir(exist_ok=True)
            os.replace(path, self.blob(manifest.sha256))
            sync(self.blobs)
            self._drop_by_hand(name)
        logger.info("%s was taken over as %s@%d", path, name, version.number)
        return True

    def _drop_by_hand(self, name: str) -> None:
        for path in (self.by_hand(name), self.directory / f"{name}.json"):
            path.unlink(missing_ok=True)
        sync(self.directory)
