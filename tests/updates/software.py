"""Who makes small software bundles, and a machine with slots that takes them.

The installers in the bundles are programs of their own, which do to the slots what the real one
does; that one is tried on booted machines (tests/boot).
"""

from __future__ import annotations

import hashlib
import platform
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from edge.bundles.keys import SigningKey, make_key
from edge.updates.fit import Machine
from edge.updates.make import seal
from edge.updates.slots import Slots
from edge.updates.source import FileSource
from edge.updates.trust import trusted_keys
from edge.updates.update import Plan, Rules, Updater

HERE = Machine(platform.machine(), "debian 12", None)

Facts: TypeAlias = Mapping[str, str]
NO_FACTS: Facts = {}

HEAD = """#!/bin/sh
set -eu
base=$(cd "$(dirname "$0")/../../.." && pwd)
version=$(sed -n 's/^version=//p' "$base/.update/bundle/bundle.env")
identity=$(sha256sum <"$base/.update/bundle/SHA256SUMS" | cut -c1-8)
echo "==> Installing $version"
mkdir -p "$base/$version"
echo "$identity" >"$base/$version/.identity"
"""
GOOD = f'{HEAD}ln -sfn "$version" "$base/current"\n'
DOES_NOT_ANSWER = f"""{HEAD}echo "$identity" >"$base/.failed"
echo "Error: edge $version does not answer" >&2
echo "Try: the other one" >&2
exit 1
"""
CANNOT = f"{HEAD}echo 'Error: dpkg was interrupted'\nexit 1\n"


class Factory:
    """Where software is signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = make_key(folder / "update.key")

    def bundle(
        self,
        version: str,
        installer: str = GOOD,
        *,
        key: SigningKey | None = None,
        name: str = "",
        ballast: int = 300_000,
        facts: Facts = NO_FACTS,
    ) -> Path:
        """edge-VERSION.tar, or with another name. facts: in place of those in `bundle.env`."""
        folder = self.folder / f"edge-{name or version}"
        (folder / "scripts").mkdir(parents=True)
        (folder / "models").mkdir()
        script = folder / "scripts" / "install.sh"
        script.write_text(installer)
        script.chmod(0o755)
        dice = random.Random(version)
        for number in range(2):
            (folder / "models" / f"{number}.gguf").write_bytes(dice.randbytes(ballast))
        given = {
            "version": version,
            "oldest": "0.1.0",
            "made_at": "2026-11-01T12:00:00+00:00",
            "machine": HERE.machine,
            "system": HERE.system,
            "python": "{}.{}".format(*sys.version_info),
            "l4t": "",
        }
        lines = [f"{key}={value}\n" for key, value in {**given, **facts}.items()]
        (folder / "bundle.env").write_text("".join(lines))
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}\n"
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        (folder / "SHA256SUMS").write_text("".join(sums))
        path = folder.with_suffix(".tar") if name else self.folder / f"edge-{version}.tar"
        seal(folder, path, key or self.key)
        return path


class Box:
    """A machine that trusts the factory and has a version in use."""

    def __init__(self, folder: Path, factory: Factory, version: str = "1.0.0") -> None:
        self.base, self.keys = folder / "opt", folder / "etc" / "update-keys"
        self.keys.mkdir(parents=True)
        (self.keys / "factory.pem").write_text(factory.key.public_pem())
        (self.base / version / "installer").mkdir(parents=True)
        (self.base / version / ".identity").write_text("00000000\n")
        (self.base / version / "installer" / "made_at").write_text("2026-11-01T12:00:00+00:00\n")
        (self.base / "current").symlink_to(version)
        self.slots = Slots(self.base)
        self.said: list[str] = []

    def updater(
        self, *, here: Machine = HERE, downgrade: bool = False, retry: bool = False
    ) -> Updater:
        return Updater(self.slots, trusted_keys(self.keys), Rules(here, None, downgrade, retry))

    def plan(self, bundle: Path) -> Plan:
        return self.updater().plan(FileSource(bundle))

    def update(self, bundle: Path, *, retry: bool = False, downgrade: bool = False) -> str:
        """Install it; returns how it ended."""
        updater = self.updater(retry=retry, downgrade=downgrade)
        with updater.alone() as lock:
            plan = updater.plan(FileSource(bundle))
            updater.fetch(plan)
            return str(updater.install(plan, lock, self.said.append).outcome)

    @property
    def staged(self) -> dict[str, bytes]:
        """What there is of a bundle, below where it is run from."""
        root = self.base / ".update" / "bundle"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
