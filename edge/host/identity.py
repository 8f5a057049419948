"""What the machine is and which power mode is set: what changes rarely, in one look."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import board, cuda, jetpack, nvpmodel
from edge.host.nvpmodel import Mode


class Identity(msgspec.Struct, frozen=True):
    """jetson: whether it is one of NVIDIA's boards. mode, strongest_mode: of nvpmodel."""

    board: str | None
    jetson: bool
    module: str | None = None
    chip: str | None = None
    jetpack: str | None = None
    l4t: str | None = None
    cuda: str | None = None
    mode: Mode | None = None
    strongest_mode: Mode | None = None


def read(root: Path = Path("/")) -> Identity:
    return Identity(
        board=board.model(root),
        jetson=board.is_jetson(root),
        module=board.module(root),
        chip=board.chip(root),
        jetpack=jetpack.version(root),
        l4t=jetpack.l4t(root),
        cuda=cuda.version(root),
        mode=nvpmodel.current(root),
        strongest_mode=nvpmodel.strongest(nvpmodel.modes(root)),
    )
