"""How a stretch of time is shared out to those who computed in it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

import msgspec

H = TypeVar("H", bound=Hashable)


class Work(msgspec.Struct, Generic[H], frozen=True):
    """A computation, from and up to a time, and which parts of it (1 together, or less) are
    whose."""

    began: float
    ended: float
    parts: dict[H, float]


def seconds_of(began: float, ended: float, works: Sequence[Work[H]]) -> dict[H, float]:
    """Seconds of a stretch by whose they are. Each moment belongs evenly to the computations that
    were under way, and in each of them to everybody as much as of the whole of it; a moment at
    which nothing was computed belongs to nobody."""
    own = _seconds(began, ended, works)
    found: defaultdict[H, float] = defaultdict(float)
    for work, seconds in zip(works, own, strict=True):
        if seconds:
            for whose, part in work.parts.items():
                found[whose] += seconds * part
    return dict(found)


def _seconds(began: float, ended: float, works: Sequence[Work[H]]) -> list[float]:
    """Of each computation."""
    edges = [
        edge
        for at, work in enumerate(works)
        if work.ended > began and work.began < ended
        for edge in ((max(began, work.began), 1, at), (min(ended, work.ended), -1, at))
    ]
    edges.sort()
    own, under_way = [0.0] * len(works), set[int]()
    for (left, kind, at), (right, _, _) in pairwise(edges):
        (under_way.add if kind > 0 else under_way.discard)(at)
        for one in under_way:
            own[one] += (right - left) / len(under_way)
    return own
