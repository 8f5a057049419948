"""A computed prefix that can outlive its slot. Its books are kept by `prefixes.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.engine.backend import Snapshot


@dataclass(eq=False)
class Prefix:
    """A computed prefix. data: its state, None while it is in a file only.

    shared: how many of its tokens are the beginning of several prompts that then differ; 0 while
        nobody knows. prompt: how many were a prompt, and not an answer.
    uses: how often it was restored. worth: tokens that it saved, counted up to `worth_at`.
    file: where it is kept. saving: a file of it is being written.
    """

    owner: str
    tokens: list[int]
    data: Snapshot | None
    size: int
    prompt: int
    shared: int = 0
    uses: int = 0
    worth: float = 0.0
    worth_at: int = 0
    file: Path | None = None
    saving: bool = False

    @property
    def lasting(self) -> bool:
        """Worth a place on disk. The turns of a conversation are not: each of them is restored
        once, and would be written once."""
        return self.shared > 0 or self.uses > 1
