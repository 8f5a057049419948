"""What the engine needs of a decoder.

`engine/llama.py` is the real one; the tests step the engine with a fake one. A backend has no
policy: it computes what it is told and forgets what it is told to forget. One thread only may
call it, except for the `Vocabulary`, which is read-only and may be used from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.types import Sampling

Logits = npt.NDArray[np.float32]
Snapshot = npt.NDArray[np.uint8]


class SnapshotFailed(Exception):
    """A slot's state could not be taken out or put back; nothing is lost but what it would save."""


@dataclass(frozen=True)
class Chunk:
    """Tokens to compute in one slot, from position `start` on.

    outputs: for how many of them, counted from the last, the backend makes logits. All rows are
        in the order of chunks, and of tokens in a chunk.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    outputs: int


class Vocabulary(Protocol):
    """Text to tokens and back. Thread-safe."""

    size: int

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Token ids of `text`; `special` parses control tokens, `bos` adds what the model wants."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        ...

    def is_end(self, token: int) -> bool:
        """True for the tokens with which the model ends an answer."""
        ...


class Chain(Protocol):
    """The random choices of one sequence, with their state."""

    def sample(self, row: int) -> int:
        """Choose a token from output row `row` of the last decode, and remember it."""
        ...

    def replay(self, token: int) -> None:
        """Bring the state to where it is after `token` was chosen, without choosing."""
        ...


class Backend(Protocol):
    """A model with `slots` independent sequences of up to `context` tokens each.

    batch, outputs: most tokens and most output rows of one `decode`.
    can_truncate: a slot can be cut to any prefix of what it holds; otherwise only to nothing.
    can_cut_snapshots: so can one whose state was restored. Where a window slides over the tokens a
        snapshot has those in the window only, and what is cut off has to be computed before it.
    """

    @property
    def vocabulary(self) -> Vocabulary: ...

    slots: int
    context: int
    batch: int
    outputs: int
    can_truncate: bool
    can_cut_snapshots: bool

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Compute all chunks in one go. Chunks come in ascending order of slots.

        Raises RuntimeError when the computation failed; the state is then undefined.
        """
        ...

    def logits(self) -> Logits:
        """Shape (rows, vocabulary) of the last decode; valid until the next one."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a slot."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the target hold the first `length` tokens of the source, and nothing else."""
        ...

    def snapshot(self, slot: int, limit: int) -> Snapshot:
        """The state of a slot, all that it holds, for `restore` into any slot.

        Raises `SnapshotFailed`, also where it has more than `limit` bytes.
        """
        ...

    def restore(self, slot: int, data: Snapshot) -> None:
        """Make a slot hold what the snapshot was taken of, and nothing else.

        Raises `SnapshotFailed`; the slot then holds nothing.
        """
        ...

    def chain(self, sampling: Sampling) -> Chain: ...

    def close(self) -> Any: ...
