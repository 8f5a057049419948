"""Machines to install on. All of it is long, and for `./scripts/soak boot`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import FIRST, bare_debian, make_bundles
from machine import Machine

Install = Callable[[], Machine]


def missing() -> str | None:
    """Why there can be no machine here."""
    if not os.environ.get("SOAK_BOOT"):
        return "long: ./scripts/soak boot"
    if os.geteuid() != 0:
        return "booting a container takes root: sudo ./scripts/soak boot"
    for program in ("debootstrap", "systemd-nspawn", "nsenter"):
        if shutil.which(program) is None:
            return f"there is no {program}: apt install debootstrap systemd-container"
    if platform.freedesktop_os_release().get("ID") != "debian":
        return "the machine is made as a copy of a Debian, and this is none"
    return None


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drive with the bundles."""
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("media")
    make_bundles(folder)
    return folder


@pytest.fixture
def bare(media: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine with nothing on it, which runs."""
    machine = Machine([bare_debian()], tmp_path / "bare", media)
    try:
        yield machine.boot()
    finally:
        machine.end()


@pytest.fixture(scope="session")
def installed_disks(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The disks of a machine that the first version was installed on."""
    machine = Machine([bare_debian()], tmp_path_factory.mktemp("installed") / "disk", media)
    try:
        machine.boot().run(f"/media/{FIRST}/scripts/install.sh")
        # What a machine writes down before its power is cut.
        machine.run("systemctl", "stop", "edge.socket", "edge", "mosquitto")
        machine.run("sync")
        yield machine.unmount()
    finally:
        machine.end()


@pytest.fixture
def machine(media: Path, installed_disks: list[Path], tmp_path: Path) -> Iterator[Machine]:
    """A machine that was switched on, with the first version installed and at work."""
    made = Machine(installed_disks, tmp_path / "machine", media)
    try:
        yield made.boot()
    finally:
        made.end()
