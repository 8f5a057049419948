"""Power modes of Jetson boards: which there are, and which is set.

nvpmodel keeps both in files, so that nothing has to be run, and nothing can be changed by asking.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edge.host import kernel


class Mode(msgspec.Struct, frozen=True):
    """id: what `nvpmodel -m` takes. name: `MAXN`, `30W`; before JetPack 6 `MODE_30W`."""

    id: int
    name: str


def modes(root: Path = Path("/")) -> list[Mode]:
    """As the board's file has them, from lines such as `< POWER_MODEL ID=0 NAME=MAXN >`."""
    found = re.findall(
        r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)",
        kernel.text(root / "etc/nvpmodel.conf") or "",
        re.MULTILINE,
    )
    return [Mode(int(number), name) for number, name in found]


def current(root: Path = Path("/")) -> Mode | None:
    """The one that was set last, which holds over restarts: `pmode:0002`, maybe with more words."""
    match = re.search(r"pmode:(\d+)", kernel.text(root / "var/lib/nvpmodel/status") or "")
    if match is None:
        return None
    number = int(match[1])
    return next((mode for mode in modes(root) if mode.id == number), None)


def strongest(found: list[Mode]) -> Mode | None:
    """MAXN_SUPER, else MAXN, else the one with the most watts and then cores in its name. Numbers
    say nothing: on an Orin NX it is 0, on an Orin Nano 2."""
    return max(found, key=_strength, default=None)


def _strength(mode: Mode) -> tuple[bool, bool, int, int]:
    watts = re.search(r"(\d+)W", mode.name)
    cores = re.search(r"(\d+)CORE", mode.name)
    return (
        mode.name == "MAXN_SUPER",
        mode.name.startswith("MAXN"),
        int(watts[1]) if watts else 0,
        int(cores[1]) if cores else 0,
    )
