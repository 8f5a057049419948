"""Installing a bundle: all of it or nothing. Blocking; needs no network.

    signature ─► fit ─► room ─► copy and check into the draft ─► journal: from here on it counts

Whatever ends this before the journal is written leaves at most a draft, which the next install and
`edge models gc` take away. After it, whoever has the store's turn next carries on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from edge.bundles import record
from edge.bundles.keys import TrustedKeys
from edge.bundles.manifest import BundleManifest
from edge.bundles.reader import Bundle, named, opened, passed_over
from edge.bundles.record import Record, check_fit, record_of
from edge.bundles.staging import Renames, Staging
from edge.disk import sync, write_atomically
from edge.modelstore import journal
from edge.modelstore.journal import Journal
from edge.modelstore.locks import turn
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.workspace import Progress, Workspace, unwatched


class Outcome(msgspec.Struct, frozen=True):
    """previous: the version of the bundle before. models: versions that its names got.

    config: where its configuration was laid; in `<name>.new` where another one is in force.
    wheels: the folder with them.
    """

    manifest: BundleManifest
    key: str
    previous: int | None
    models: list[Installed]
    config: Path | None
    wheels: Path | None


def verify(
    path: Path,
    store: ModelStore,
    trusted: TrustedKeys,
    allow_older: bool = False,
    progress: Progress = unwatched,
) -> Record:
    """Check all that can be checked before something is changed; what would be recorded.

    Raises `BundleRefused`, `StoreBroken`, `OSError`.
    """
    with opened(path, trusted) as bundle:
        bundle.read(passed_over, progress)
        check_fit(bundle.manifest, record.records(store).get(bundle.manifest.name), allow_older)
        return record_of(bundle.manifest, bundle.key)


class Installer:
    """For one machine. config_file: where its configuration is, or would be."""

    def __init__(self, store: ModelStore, config_file: Path, trusted: TrustedKeys) -> None:
        self.store = store
        self.config_file = config_file
        self.trusted = trusted

    def install(
        self, path: Path, allow_older: bool = False, progress: Progress = unwatched
    ) -> Outcome:
        """Raises `BundleRefused`, `PullFailed` where there is no room or a model of the name was
        copied in by hand, `ModelInUse`, `StoreBroken`, `OSError`."""
        with opened(path, self.trusted) as bundle, self._alone(), ExitStack() as held:
            before = record.records(self.store).get(bundle.manifest.name)
            with named(path):
                check_fit(bundle.manifest, before, allow_older)
            with self.store.turn():
                self._make_way(bundle.manifest)
            staging = Staging(self.store, bundle.manifest, self.config_file, held)
            try:
                staging.config_stage.unlink(missing_ok=True)  # of an install that was killed
                self._stage(bundle, staging, progress)
                with self.store.turn():
                    self._commit(bundle, staging, before)
            except BaseException:
                if not self.store.journal.exists():
                    staging.config_stage.unlink(missing_ok=True)
                raise
            return self._outcome(bundle, staging, before)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One install at a time, each with a draft that begins empty."""
        draft = self.store.draft
        draft.parent.mkdir(parents=True, exist_ok=True)
        with turn(draft.with_name(f"{draft.name}.lock")):
            self.store.settle()
            if draft.exists():
                shutil.rmtree(draft)
            draft.mkdir()
            try:
                yield
            finally:
                # With a journal it is installed, only not finished, and needs what is in there.
                if not self.store.journal.exists():
                    shutil.rmtree(draft, ignore_errors=True)

    def _make_way(self, manifest: BundleManifest) -> None:
        for carried in manifest.models:
            self.store.make_way(carried.name)

    def _stage(self, bundle: Bundle, staging: Staging, progress: Progress) -> None:
        Workspace(self.store.draft, progress).require(staging.missing_bytes)
        bundle.read(staging.take, progress)
        with named(bundle.path):
            staging.check()

    def _commit(self, bundle: Bundle, staging: Staging, before: Record | None) -> None:
        """Needs the store's turn."""
        manifest = bundle.manifest
        self._make_way(manifest)
        draft = self.store.draft.absolute() / "record.json"
        place = record.place(self.store, manifest.name).absolute()
        made = msgspec.json.encode(record_of(manifest, bundle.key))
        write_atomically(draft, msgspec.json.format(made) + b"\n")
        renames: Renames = [*staging.renames(), (str(draft), str(place))]
        for _, there in renames:
            Path(there).parent.mkdir(parents=True, exist_ok=True)
        self._settle_folders()
        needless = [str(path.absolute()) for path in self._needless(staging, before)]
        what = f"install of the bundle {manifest.reference}"
        journal.commit(self.store.journal, Journal(what, renames, needless))

    def _settle_folders(self) -> None:
        """Have all folders on disk, and in the hands of the daemon's user if root installs.

        That user has to be able to finish the journal, and to pull models later.
        """
        top = self.store.directory
        folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
        owner = top.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            for path in (*folders, *self.store.draft.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        for folder in (top.parent, *folders):
            sync(folder)

    def _needless(self, staging: Staging, before: Record | None) -> Iterator[Path]:
        manifest = staging.manifest
        if not manifest.of_kind("catalog"):
            yield staging.catalog()
        if before and before.manifest.version != manifest.version:
            yield staging.wheels(before.manifest)
        for carried in manifest.models:  # damaged ones of an earlier release, after `make_way`
            path = self.store.by_hand(carried.name)
            if path.exists():
                yield from (path, path.with_suffix(".json"))
        yield self.store.draft

    def _outcome(self, bundle: Bundle, staging: Staging, before: Record | None) -> Outcome:
        manifest = bundle.manifest
        digests = {one.name: one.sha256 for one in manifest.models}
        return Outcome(
            manifest,
            bundle.key,
            before.manifest.version if before else None,
            [
                model
                for name, digest in digests.items()
                for model in self.store.versions(name)
                if model.manifest and model.manifest.sha256 == digest
            ],
            staging.config_place,
            staging.wheels(manifest) if manifest.of_kind("wheel") else None,
        )
