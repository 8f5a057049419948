"""The partition that firmware starts from: FAT, so that anybody can put an edge.yaml on it before
the machine is ever switched on, from Windows too. What the first boot has to say lies beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from firstboot import durable
from firstboot.machine import Failed, Machine

MOUNT = "boot/efi"
NAMES = ("edge.yaml", "edge.yml", "edge.yaml.txt", "edge.yml.txt")
"""Windows hides endings, and adds one."""

RESULT = "edge-first-boot.txt"
REFUSED = "edge-yaml-error.txt"
LARGEST = 1024 * 1024


class Unreadable(Exception):
    """The file is not what an editor writes as plain text."""


def folder(machine: Machine) -> Path:
    """Where the partition is mounted. Where nothing is, it is mounted; where there is none,
    the folder it would be in does."""
    place = machine.path(MOUNT)
    if not place.is_mount() and (device := _device(machine)):
        place.mkdir(parents=True, exist_ok=True)
        try:
            machine.run("mount", "-t", "vfat", device, place)
        except Failed as error:
            machine.tell(f"the boot partition {device} cannot be mounted: {error}")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _device(machine: Machine) -> str | None:
    """The one called `esp` on the disk that the root file system is on: a board may have more."""
    try:
        device = machine.path("").stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        root = machine.path(f"sys/dev/block/{number}").resolve()
        for event in root.parent.glob("*/uevent"):
            if re.search(r"^PARTNAME=esp$", event.read_text(), re.M | re.I):
                return f"/dev/{event.parent.name}"
    except OSError:
        pass
    return None


def settings(place: Path) -> tuple[str, str] | None:
    """The name of the file with the settings and its text, or None where there is none. Raises
    `Unreadable`."""
    found = {entry.name.lower(): entry for entry in place.iterdir() if entry.is_file()}
    for name in NAMES:
        if (file := found.get(name)) is not None:
            with open(file, "rb") as opened:
                return file.name, plain_text(opened.read(LARGEST + 1))
    return None


def plain_text(content: bytes) -> str:
    """As an editor of any system writes it: with or without a byte order mark, UTF-8 or UTF-16,
    lines that end with CR LF or LF. Raises `Unreadable`."""
    if len(content) > LARGEST:
        raise Unreadable("the file is larger than a MiB")
    coding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(coding)
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"byte {error.start + 1} is not text in UTF-8: save it with that encoding"
        ) from None
    # What a FAT keeps of a file that was being written when the power went.
    if "\0" in text:
        raise Unreadable("there are NUL bytes in the file: copy it once more")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def leave(place: Path, name: str, text: str) -> None:
    """A file for whoever looks at the partition, with line ends that every editor knows."""
    durable.write(place / name, text.replace("\n", "\r\n").encode())


def take_away(place: Path, name: str) -> None:
    (place / name).unlink(missing_ok=True)
    durable.sync_folder(place)
