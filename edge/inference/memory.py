"""How much memory an ONNX model is going to take, and whether there is so much.

onnxruntime tells neither before it has loaded and computed. docs/architecture.md has what real
models were promised and took: 32 of the largest rows may take 1.4 times what was foreseen. That can
be seen then, and whoever is loaded later has less.
"""

from __future__ import annotations

from edge.errors import OutOfMemory
from edge.runtime.guard import Room

PROCESS_BYTES = 64_000_000
"""A worker with its libraries and no model."""

WEIGHTS_FACTOR = 4
"""Weights are laid out anew, and those of int8 grow most."""

ROW_BYTES = 4_000_000
"""What lies between input and output, for each row that is computed at once."""


def predicted_bytes(size_bytes: int, rows: int) -> int:
    """size_bytes: of the model's files. rows: computed together at most."""
    return size_bytes * WEIGHTS_FACTOR + max(1, rows) * ROW_BYTES


def refusal(name: str, size_bytes: int, needed: int, room: Room) -> OutOfMemory:
    usable = room.usable or 0
    return OutOfMemory(
        f"{name} does not fit: its files have {size_bytes / 1e6:,.0f} MB, for which about "
        f"{needed / 1e6:,.0f} MB are needed, and {usable / 1e6:,.0f} MB may be used",
        hint="free memory, unload or remove other models, or set batch.max in its model.yaml lower",
    )
