"""How hard the engine may work: how many sequences at once, and how long it rests after a step.

The pace comes from the daemon, which knows how hot the machine is. Nothing that runs is cut: who
has a slot keeps it, and fewer begin. Critical sequences begin and are computed as if there were no
pace. Owned by the engine's thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from edge.engine.sequence import Sequence
from edge.rest import Rest
from edge.types import Pace


class Pacer:
    """slots: that there are."""

    def __init__(self, slots: int) -> None:
        self.pace = Pace()
        self._slots = slots
        self._rest = Rest()

    def lets_begin(self, sequence: Sequence, running: Collection[Sequence]) -> bool:
        """Whether it may have a slot beside those that run."""
        if sequence.urgent:
            return True
        if len(running) >= self._most(self.pace.slots):
            return False
        beside = sum(one.unread for one in running)
        return not sequence.unread or beside < self._most(self.pace.batch_slots)

    def worked(self, seconds: float, now: float) -> None:
        """A step that took so long has ended."""
        self._rest.worked(seconds, now)

    def rest(self, sequences: Iterable[Sequence], now: float) -> float:
        """Seconds until the next step for these, running or waiting."""
        priorities = {one.generation.priority for one in sequences}
        return self._rest.left(self.pace, priorities, now)

    def _most(self, share: float) -> int:
        return max(1, int(self._slots * share))
