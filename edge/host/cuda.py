"""The CUDA toolkit that is installed, which is the one that llama.cpp would be built with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import kernel


class _Part(msgspec.Struct):
    version: str


class _Versions(msgspec.Struct):
    cuda: _Part


def version(root: Path = Path("/")) -> str | None:
    """`12.6.68`, from the toolkit's own list."""
    listed = kernel.text(root / "usr/local/cuda/version.json")
    try:
        return msgspec.json.decode(listed, type=_Versions).cuda.version if listed else None
    except msgspec.MsgspecError:
        return None
