"""The sections of what the machine may bear: heat and power."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edge.config.section import Section


class Heat(Section, frozen=True):
    enabled: Annotated[
        bool, Meta(description="Do less, the least urgent first, before the machine slows down")
    ] = True
    margin: Annotated[
        float,
        Meta(
            ge=2,
            le=40,
            description="Degrees below the point where the machine slows down at which batch work "
            "is slowed down; it waits at 3/4 of them, fewer requests run at once at 1/2, and what "
            "may wait does at 1/4",
        ),
    ] = 8


class Power(Section, frozen=True):
    budget_watts: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="What the machine may draw on average: more is answered like heat; null "
            "for no such bound"
        ),
    ] = None
