"""What a bundle brings, on its way into the store: written, synced and checked, and not yet of use.

All of it lies in the store's draft folder, but for a configuration, which has to be beside its
place to be renamed. `renames` says where everything goes; nothing here does it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import msgspec

from edge.bundles import record
from edge.bundles.manifest import BundleManifest, Carried, Member
from edge.bundles.reader import passed_over
from edge.config import reader
from edge.config.tree import Config, first_models
from edge.disk import sha256_of, sync, write_atomically
from edge.errors import BadModelFile, BundleRefused, ConfigError
from edge.modelstore import versions
from edge.modelstore.catalog import load_catalog
from edge.modelstore.gguf import read_installable
from edge.modelstore.journal import stage_name
from edge.modelstore.locks import shared
from edge.modelstore.store import ModelStore
from edge.modelstore.versions import Manifest, manifest_of

Renames: TypeAlias = list[tuple[str, str]]


class Staging:
    """config_file: where the configuration of this machine is, or would be."""

    def __init__(
        self, store: ModelStore, manifest: BundleManifest, config_file: Path, held: ExitStack
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.config_file = config_file.resolve()
        self.config_stage = self.config_file.with_name(stage_name(self.config_file.name))
        self.config_place: Path | None = None
        self._held = held
        self._manifests: dict[str, Manifest] = {}
        self._present = {
            member.sha256 for member in manifest.of_kind("model") if self._is_present(member)
        }

    @property
    def missing_bytes(self) -> int:
        """What has to be written."""
        files = self.manifest.files
        return sum(member.size for member in files if member.sha256 not in self._present)

    def take(self, member: Member, pieces: Iterator[bytes]) -> None:
        """Write a file into the draft; its contents are not known to be right yet."""
        if member.sha256 in self._present:
            passed_over(member, pieces)
            return
        path = self._draft(member)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
        sync(path)

    def check(self) -> None:
        """Have all contents, which are those that were signed, read by those who will use them.

        Raises `BundleRefused`, `OSError`.
        """
        for carried in self.manifest.models:
            self._manifests[carried.name] = self._read_model(carried)
        try:
            for member in self.manifest.of_kind("catalog"):
                load_catalog(self._draft(member))
            for member in self.manifest.of_kind("config"):
                self._stage_config(member)
        except ConfigError as error:
            raise BundleRefused(error.message, hint="mend it and make the bundle anew") from None

    def renames(self) -> Renames:
        """From where each file goes to where; needs the store's turn, for names may change."""
        return [
            *((str(here), str(there)) for here, there in self._files()),
            *((str(here), str(there)) for here, there in self._names()),
        ]

    def wheels(self, manifest: BundleManifest) -> Path:
        return self.store.directory / "wheels" / manifest.reference

    def catalog(self) -> Path:
        return self.store.catalogs / f"{self.manifest.name}.yaml"

    def _is_present(self, member: Member) -> bool:
        """Whether the store has the file; it stays there then, for it is held."""
        blob = self.store.blob(member.sha256)
        same = self._held.enter_context(shared(blob))
        return same and blob.stat().st_size == member.size

    def _draft(self, member: Member) -> Path:
        return self.store.draft.absolute() / member.path

    def _files(self) -> Iterator[tuple[Path, Path]]:
        for member in self.manifest.files:
            if member.kind == "wheel":
                place = self.wheels(self.manifest).absolute() / Path(member.path).name
                yield self._draft(member), place
            elif member.kind == "catalog":
                yield self._draft(member), self.catalog().absolute()
            elif member.kind == "model" and member.sha256 not in self._present:
                yield self._draft(member), self.store.blob(member.sha256).absolute()
        if self.config_place is not None:
            yield self.config_stage, self.config_place

    def _names(self) -> Iterator[tuple[Path, Path]]:
        for carried in self.manifest.models:
            manifest = self._manifests[carried.name]
            known = self.store.known(carried.name)
            if known.of_digest(manifest.sha256) is None:
                known = known.added(manifest)
            version = known.of_digest(manifest.sha256)
            assert version is not None
            if (carried.activate and version.number != known.active) or not known.get(known.active):
                known = known.activated(version.number)
            draft = self.store.draft.absolute() / "names" / f"{carried.name}.json"
            versions.write(draft, known)
            yield draft, self.store.pointer(carried.name).absolute()

    def _read_model(self, carried: Carried) -> Manifest:
        member = next(one for one in self.manifest.files if one.sha256 == carried.sha256)
        path = self._draft(member)
        if member.sha256 in self._present:
            path = self.store.blob(member.sha256)
        try:
            header = read_installable(path)
        except BadModelFile as error:
            raise BundleRefused(f"{carried.name}: {error.message}", hint=error.hint) from None
        source = carried.source or f"bundle:{self.manifest.reference}"
        made = manifest_of(header, carried.sha256, source, carried.licence, carried.revision)
        return msgspec.structs.replace(made, memory_bytes=carried.memory_bytes)

    def _stage_config(self, member: Member) -> None:
        """Decide where the configuration goes, and put it beside that place."""
        draft = self._draft(member)
        config = reader.load(str(draft), environ={})
        path, there = self.config_file, self.config_file.exists()
        if there and sha256_of(path) == member.sha256:
            return
        if there and not self._is_replaceable(path):
            self.config_place = path.with_name(f"{path.name}.new")
        else:
            self._check_served(config)
            self.config_place = path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_stage, draft.read_bytes())
        if there:
            shutil.copymode(path, self.config_stage)

    def _is_replaceable(self, path: Path) -> bool:
        """Whether nobody's work is in it: a bundle brought it as it is, or it sets nothing."""
        brought = {
            member.sha256
            for one in record.records(self.store).values()
            for member in one.manifest.of_kind("config")
        }
        if sha256_of(path) in brought:
            return True
        try:
            return reader.load(str(path), {}) == reader.load(os.devnull, {})
        except ConfigError:
            return False

    def _check_served(self, config: Config) -> None:
        """A daemon with this configuration would not start without its models."""
        for name in first_models(config):
            base, _, adapter = name.rpartition("+")
            there = self._will_be_there(name)
            if not there and base:  # a model with an adapter
                there = self._will_be_there(base) and self._will_be_there(adapter)
            if not there:
                raise BundleRefused(
                    f"its configuration loads {name}, which is neither in it nor installed",
                    hint="put it in, or pull or import it here first",
                )

    def _will_be_there(self, name: str) -> bool:
        carried = {one.name for one in self.manifest.models}
        if name in carried or name.rpartition("@")[0] in carried:
            return True
        # The daemon fetches the default one by itself.
        return self.store.find(name) is not None or name == Config().models.default
