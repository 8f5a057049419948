"""The levels of heat, and what each of them means for whom. Pure.

    normal ─► less_batch ─► no_batch ─► fewer_slots ─► elsewhere ─► critical_only

Nothing that runs is cut, and critical requests are answered at every level: what one of them heats
is little, and the kernel looks after the machine.
"""

from __future__ import annotations

from edge.types import Pace, Priority

NAMES = ("normal", "less_batch", "no_batch", "fewer_slots", "elsewhere", "critical_only")
NO_BATCH, ELSEWHERE, CRITICAL_ONLY = 2, 4, 5

PACES = (
    Pace(),
    Pace(batch_slots=0.5, batch_chunk=0.5, batch_duty=0.5),
    Pace(batch_slots=0.0, batch_chunk=0.25, batch_duty=0.25),
    Pace(0.5, 0.0, 0.25, drafts=False, duty=0.75, batch_duty=0.2),
    Pace(0.25, 0.0, 0.25, drafts=False, duty=0.5, batch_duty=0.1),
    Pace(0.25, 0.0, 0.25, drafts=False, duty=0.25, batch_duty=0.1),
)
"""How hard the workers work at each level. Fewer sequences at once take the peaks away and little
of the heat, as every step reads the whole model for whoever is in it: what cools is the rest
between two steps."""

_WAITS_FROM: dict[Priority, int] = {"batch": NO_BATCH, "normal": ELSEWHERE}
_REFUSED_FROM: dict[Priority, int] = {"batch": NO_BATCH, "normal": CRITICAL_ONLY}
_AWAY_FROM: dict[Priority, int] = {
    "batch": NO_BATCH,
    "normal": ELSEWHERE,
    "critical": CRITICAL_ONLY,
}


def waits_from(priority: Priority, *, may_wait: bool) -> int | None:
    """The level from which on such a request does not begin here; None where it always does.
    may_wait: it is kept, or its caller lets it be."""
    return (_WAITS_FROM if may_wait else _REFUSED_FROM).get(priority)


def goes_away(level: int, priority: Priority) -> bool:
    """Whether other machines are asked first, where the route has any."""
    return level >= _AWAY_FROM[priority]


def meaning(level: int) -> str:
    """What it does, for people."""
    return (
        "nothing is held back",
        "batch work is slowed down",
        "batch work waits",
        "batch work waits, fewer requests run at once",
        "batch work waits, as does what may; the cloud is asked first",
        "all but critical requests wait",
    )[level]
