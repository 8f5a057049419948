"""Which version of each bundle a machine has, and whether another one may follow it."""

from __future__ import annotations

import datetime
import platform
import sys
from pathlib import Path

import msgspec

from edge.bundles.manifest import ANY, BundleManifest
from edge.errors import BundleRefused, StoreBroken
from edge.modelstore.store import ModelStore
from edge.modelstore.versions import current_user, now


class Record(msgspec.Struct, frozen=True):
    """An installed bundle. key: fingerprint of who signed it."""

    manifest: BundleManifest
    key: str
    installed_at: datetime.datetime
    installed_by: str


def record_of(manifest: BundleManifest, key: str) -> Record:
    return Record(manifest, key, now(), current_user())


def place(store: ModelStore, name: str) -> Path:
    """The file with the record of the bundle of that name."""
    return store.directory / "bundles" / f"{name}.json"


def records(store: ModelStore) -> dict[str, Record]:
    """By the name of the bundle. Raises `StoreBroken`."""
    found = {}
    for path in sorted(place(store, "x").parent.glob("*.json")):
        try:
            found[path.stem] = msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError) as error:
            raise StoreBroken(
                f"{path} cannot be read: {error}",
                hint="remove it; the next bundle of that name is installed whatever its version",
            ) from None
    return found


def check_fit(manifest: BundleManifest, installed: Record | None, allow_older: bool) -> None:
    """That the bundle is for this machine and not older than what it has.

    Raises `BundleRefused`.
    """
    here = platform.machine()
    if manifest.architecture not in (ANY, here):
        raise BundleRefused(
            f"{manifest.reference} is for {manifest.architecture}, and this machine is {here}",
            hint="make one for this architecture",
        )
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if manifest.python not in (None, python):
        raise BundleRefused(
            f"{manifest.reference} has wheels for {manifest.python}, and this is {python}",
            hint="make one with wheels for this Python",
        )
    if installed is None:
        return
    before = installed.manifest
    if manifest.version < before.version and not allow_older:
        raise BundleRefused(
            f"{manifest.reference} is older than {before.reference}, which is installed",
            hint="to go back on purpose: --allow-older",
        )
    if manifest.version == before.version and manifest != before:
        raise BundleRefused(
            f"another {manifest.reference} is installed, made at {before.made_at.isoformat()}",
            hint="give every bundle a version of its own",
        )
