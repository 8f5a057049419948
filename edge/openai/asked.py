"""One request with the source of its answer: computed for it now, or for a kept request."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from edge.openai.shape import Shape
from edge.types import Part, Request, Trail


@dataclass
class Asked:
    """`source` yields the pieces of all answers, to one reader, and writes `trail` on the way.

    created: epoch seconds, as the answer tells it.
    """

    request: Request
    shape: Shape
    source: AsyncGenerator[list[Part], None]
    trail: Trail
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def model(self) -> str:
        """The name the answer tells: as it was asked for, else the one that answers."""
        return self.request.model or self.trail.model
