"""The project installed for ARM64, with the versions of constraints.txt; made once for each state
of that file, of this one and of the wheel of llama.cpp.

pip fetches and unpacks the wheels here, which takes it a minute, and emulated many. What depends on
the machine, making the environment and whether all fits together, is done there.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import debian
from board import PLACE, TREE, VENV, Board
from packaging.requirements import Requirement

CONSTRAINTS = TREE / "constraints.txt"
PYTHON = "3.11"
GLIBC = 36
MACHINE = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.2",
    "platform_machine": "aarch64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "sys_platform": "linux",
}
"""Debian 12 on ARM64, as markers know it."""


def install(wheel: Path, folder: Path) -> Path:
    """The environment, to be mounted at `VENV`. wheel: of llama-cpp-python. folder: scratch."""
    pins = [*_pins(), str(wheel)]
    what = "\n".join([*pins[:-1], (TREE / "pyproject.toml").read_text()]).encode()
    what += Path(__file__).read_bytes()
    key = hashlib.sha256(what + wheel.read_bytes()).hexdigest()[:12]
    made = debian.kept() / f"arm64-venv-{key}"
    if not made.is_dir():
        new = made.with_name(f"{made.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        board = Board(folder, {new: VENV})
        _do(board, "python3", "-m", "venv", "--without-pip", str(VENV))
        site = new / f"lib/python{PYTHON}/site-packages"
        _unpack(pins, site)
        _unzip_pip(board.disk, site)
        _link_project(site, folder)
        _do(board, f"{VENV}/bin/python", "-m", "pip", "check")
        new.rename(made)
    return made


def _pins() -> list[str]:
    """What Debian's Python gets there, llama.cpp aside."""
    lines = (line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#"))
    asked = [one for one in map(Requirement, lines) if one.name != "llama-cpp-python"]
    fitting = [one for one in asked if one.marker is None or one.marker.evaluate(dict(MACHINE))]
    return [f"{one.name}{one.specifier}" for one in fitting]


def _unpack(pins: list[str], site: Path) -> None:
    # pip takes exactly the tags it is given: one alone finds other versions, or none.
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC + 1)]
    tags += ["manylinux2014_aarch64", "linux_aarch64"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    only = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
    command = [*pip, "--target", str(site), *only]
    for abi in ("cp311", "abi3", "none"):
        command += ["--abi", abi]
    for tag in tags:
        command += ["--platform", tag]
    subprocess.run([*command, *pins], check=True)


def _unzip_pip(disk: Path, site: Path) -> None:
    """The one that Debian has for new environments: models are fetched with it."""
    (wheel,) = disk.glob("usr/share/python-wheels/pip-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def _link_project(site: Path, folder: Path) -> None:
    """What is known of the project from its wheel, and its code from the tree."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(TREE)], check=True)
    (wheel,) = folder.glob("edge_appliance-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        facts = (name for name in archive.namelist() if ".dist-info/" in name)
        archive.extractall(site, facts)
    (site / "edge.pth").write_text(f"{PLACE}\n")


def _do(board: Board, *command: str) -> None:
    done = board.run(*command)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
