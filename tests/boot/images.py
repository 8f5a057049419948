"""Machines as they come out of the flasher: a bare system, and the overlay of scripts/build-image
laid over it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import debian
import emulator
from bundles import TREE

CPUINFO = """processor	: 0
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid \
asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd42
CPU revision	: 1
"""
"""Of the Cortex-A78AE in an Orin."""

QUICK = """[Manager]
DefaultEnvironment=QEMU_CPU=cortex-a76
"""
"""Of the processors that QEMU has the nearest; its own has more than an Orin, and is slower."""

NO_CREDENTIALS = """[Service]
LoadCredential=
Environment=CREDENTIALS_DIRECTORY=/etc/edge/credentials
ExecStartPre=+/bin/sh -c 'chown edge /etc/edge/credentials/* || true'
"""
"""systemd's own cannot be mounted under qemu-user ("Failed to set up credentials")."""

# What a board's own image has: Python, and neither pip nor a broker.
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,python3"


def bare_system(architecture: str | None) -> Path:
    """architecture: Debian's name of another one than this machine's, or None."""
    if architecture:
        emulator.register()
    return debian.root(PACKAGES, architecture=architecture)


def make_overlay(archive: Path, bundle: Path) -> None:
    """For this kind of machine, of a bundle that is there."""
    _build_image("--bundle", str(bundle), str(archive))


def make_foreign_overlay(archive: Path, rootfs: Path, wheels: Path) -> None:
    """For the machine whose root file system this is, with llama.cpp as build-wheel made it."""
    _build_image("--rootfs", str(rootfs), "--wheels", str(wheels), str(archive))


def _build_image(*arguments: str) -> None:
    command = [str(TREE / "scripts" / "build-image"), *arguments]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def lay_over(archive: Path, folder: Path) -> Path:
    """As it is laid over a root file system, but into a folder of its own."""
    folder.mkdir(parents=True)
    command = ["tar", "--zstd", "--keep-directory-symlink", "-xpf", str(archive), "-C", str(folder)]
    subprocess.run(command, check=True)
    return folder


def emulated(folder: Path) -> Path:
    """What an emulated system has to have besides: a board's /proc/cpuinfo, since libraries ask
    there what the processor can do, and what makes up for QEMU."""
    files = {
        "etc/emulated-cpuinfo": CPUINFO,
        "etc/systemd/system.conf.d/emulated.conf": QUICK,
        "etc/systemd/system/edge.service.d/zz-emulated.conf": NO_CREDENTIALS,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
