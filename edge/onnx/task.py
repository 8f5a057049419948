"""What a model is for: how work becomes rows of tensors, and how rows become a result.

`prepare` and `finish` run on threads of their own beside the one that computes, so that decoding
pictures and tokenizing go on while the model is busy. They share nothing but what they are given.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edge.tensors import Result, TensorFacts, Work

Arrays = dict[str, np.ndarray[Any, Any]]
"""By the names of the model's inputs or outputs."""


@dataclass(frozen=True)
class Model:
    """A model as its file declares it. folder: where the manifest lies, and what that names.

    metadata: what whoever exported it wrote into the file. batched: the first dimension of all
    inputs and outputs is for rows.
    """

    name: str
    folder: Path
    inputs: Sequence[TensorFacts]
    outputs: Sequence[TensorFacts]
    metadata: Mapping[str, str]
    batched: bool


@dataclass
class Piece:
    """Rows that stay together. inputs: each [rows, …], or of any shape for a model without batches.

    key: pieces with equal keys may be computed together. length: what one row takes, for tasks
    that pad rows of unequal lengths; pieces of like length are computed together first.
    """

    inputs: Arrays
    rows: int
    key: Hashable = None
    length: int = 0


@dataclass
class Prepared:
    """One request, ready to be computed. context: what `finish` needs of the request."""

    pieces: list[Piece]
    context: Any = None


class Task(Protocol):
    """One version of a model with its manifest. Its methods raise `EdgeError` for bad work."""

    def prepare(self, work: Work, max_batch: int) -> Prepared:
        """Pieces of at most `max_batch` rows. Raises `InvalidRequest` with the field at fault."""

    def join(self, pieces: Sequence[Piece]) -> Arrays:
        """The inputs of pieces with equal keys, one behind the other along the first dimension."""

    def finish(self, prepared: Prepared, outputs: list[Arrays]) -> Result:
        """outputs: those of each piece, in order."""


@runtime_checkable
class Condensing(Task, Protocol):
    """A task of which the outputs are far larger than what `finish` needs of them: a request of
    thousands of rows would hold gigabytes until its last one is computed."""

    def condense(self, pieces: Sequence[Piece], inputs: Arrays, outputs: Arrays) -> Arrays:
        """What is kept of a batch for `finish`, on the computing thread. inputs: of the pieces, as
        they were joined."""
