"""Whether a bundle is for this machine, and newer than what it has."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import msgspec

from edge.errors import BundleRefused
from edge.host import jetpack
from edge.updates.manifest import Software, order
from edge.updates.slots import Slots, number


class Machine(msgspec.Struct, frozen=True):
    """machine: as `uname -m` has it. system: of os-release. l4t: major release of Jetson Linux."""

    machine: str
    system: str
    l4t: int | None


def machine(root: Path = Path("/")) -> Machine:
    """root: where its files are; those of a recorded one elsewhere."""
    facts = dict[str, str]()
    for line in (root / "etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        facts[key] = value.strip().strip("\"'")
    release = jetpack.l4t(root)
    system = f"{facts.get('ID', 'unknown')} {facts.get('VERSION_ID', 'unknown')}"
    return Machine(platform.machine(), system, int(release.split(".")[0]) if release else None)


def check_machine(software: Software, here: Machine) -> None:
    """Raises `BundleRefused`."""
    for what, theirs, ours in (
        ("processor", software.machine, here.machine),
        ("system", software.system, here.system),
        ("release of Jetson Linux", software.l4t or here.l4t, here.l4t),
    ):
        if theirs != ours:
            raise BundleRefused(
                f"edge {software.version} is for the {what} {theirs}, and this machine has"
                f" {ours or 'none'}",
                hint="make one on a machine of this kind: scripts/make-offline-bundle",
            )
    if not _has_python(software):
        raise BundleRefused(
            f"edge {software.version} is for Python {software.python}, which is neither here nor"
            " in the bundle",
            hint=f"apt install python{software.python}-venv",
        )


def _has_python(software: Software) -> bool:
    carried = f"debs/python{software.python}-minimal_"
    return (
        software.python == "{}.{}".format(*sys.version_info)
        or shutil.which(f"python{software.python}") is not None
        or any(file.path.startswith(carried) for file in software.files)
    )


def check_version(software: Software, slots: Slots, allow_downgrade: bool) -> None:
    """Raises `BundleRefused`."""
    current = slots.current
    ours, theirs = order(number(current)), order(software.version)
    if ours < order(software.oldest):
        raise BundleRefused(
            f"edge {software.version} takes over from {software.oldest} and newer, and"
            f" {number(current)} is in use",
            hint=f"go over to {software.oldest} first",
        )
    if theirs < ours and not allow_downgrade:
        raise BundleRefused(
            f"edge {software.version} is older than {number(current)}, which is in use",
            hint="to go back on purpose: --allow-downgrade, or edge update --back",
        )
    made_at = slots.made_at(current)
    if theirs == ours and made_at and software.made_at < made_at and not allow_downgrade:
        raise BundleRefused(
            f"this build of edge {software.version} is older than the one in use, made at"
            f" {made_at.isoformat()}",
            hint="to go back on purpose: --allow-downgrade",
        )
