"""Which lines of the queue may be served now, and at which target their next job would begin.

A line that fails for want of somebody to ask is left alone for a while, longer each time. Owned by
the event loop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from edge.errors import EdgeError
from edge.jobs.kinds import Kinds
from edge.loops import Backoff
from edge.types import Priority

MOST_URGENT = 8
"""Critical jobs that run at a target beside all that there is room for: they get their slots from
others, or are the next in its own queue."""

NOWHERE = "nowhere"
"""Stands for the target of jobs that the configuration knows no way for any more: they are claimed
to fail, so that nobody waits for them for ever."""


class Openings:
    """Counts the running jobs by the targets they began at."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._backoffs: dict[str, Backoff] = {}
        self._not_before: dict[str, float] = {}
        self._taken: Counter[str] = Counter()
        self._batch: Counter[str] = Counter()
        """Of them the batch jobs."""

    def take(self, target: str, priority: Priority) -> Callable[[], None]:
        """Occupy a place at a target; what is returned gives it back, once."""
        books = [self._taken, self._batch] if priority == "batch" else [self._taken]
        for book in books:
            book[target] += 1

        def give_back() -> None:
            while books:
                books.pop()[target] -= 1

        return give_back

    def of(self, lines: Iterable[str], least: Priority) -> dict[str, str]:
        """The lines that may be served now, each with its target. least: with jobs that are not
        less urgent."""
        now = time.monotonic()
        found = {}
        for line in lines:
            if self._not_before.get(line, 0.0) <= now and (target := self._target(line, least)):
                found[line] = target
        return found

    def close(self, line: str, at_least: float) -> None:
        """Leave it alone for so many seconds or more: there was nobody who could answer."""
        now, closed_until = time.monotonic(), self._not_before.get(line, 0.0)
        pause = at_least
        if closed_until <= now:  # not once more for each of several jobs that fail together
            pause = max(pause, self._backoffs.setdefault(line, Backoff(first=1.0)).next())
        self._not_before[line] = max(closed_until, now + pause)

    def answered(self, line: str) -> None:
        self._backoffs.pop(line, None)
        self._not_before.pop(line, None)

    def reopen(self) -> None:
        """Somebody can be asked again: look at all lines anew."""
        self._not_before.clear()

    def _target(self, line: str, least: Priority) -> str | None:
        try:
            target = self._kinds.place(line, least)
        except EdgeError:
            return NOWHERE
        if target is None:
            return None
        room = target.room + (MOST_URGENT if least == "critical" else 0)
        if self._taken[target.name] >= room:
            return None
        taken = (self._batch if least == "batch" else self._taken)[target.name]
        fits = least == "critical" or taken < self._kinds.room(target, least)
        return target.name if fits else None
