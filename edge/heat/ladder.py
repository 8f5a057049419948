"""Up when there is too little room, down when there was more than enough for long: no to and fro.

Pure, on the caller's clock. Like the kernel's `step_wise` governor it takes one rung at a time, and
none up while the room grows by itself. Unlike it, it learns: a way down that had to be taken up
again was too early, and the next one waits twice as long, unless there is clearly more room now
than there was then.
"""

from __future__ import annotations

from typing import NamedTuple

HOLD = 60.0
"""Seconds that there has to be room enough before one rung is left."""

LONGEST_HOLD = 960.0
RELAPSE = 900.0
"""Seconds after a step down in which a step up says that it was too early."""

GROWS = 1 / 6
"""Part of the slack by which the room has to be on its way up to count as growing: more than a
sensor's noise."""


class Rung(NamedTuple):
    """Climbed when the room is at most so much, for so many seconds; with foreseen, also when it
    soon will be."""

    room: float
    after: float
    foreseen: bool = False


class Ladder:
    """The level is 0 on the ground.

    slack: more room than a rung was climbed at, from which on it may be left. better: so much more
    than at a step down that was too early is a reason to try again. All in one unit.
    """

    def __init__(self, rungs: tuple[Rung, ...], slack: float, better: float) -> None:
        self.rungs = rungs
        self.level = 0
        self._slack = slack
        self._better = better
        self._hold = HOLD
        self._short_since: float | None = None
        self._ample_since: float | None = None
        self._left_at: tuple[float, float] | None = None
        """When the last rung was left, and with how much room."""

        self._too_early = float("inf")
        """The room at the last step down that was too early."""

    def note(self, now: float, room: float | None, ahead: float | None = None) -> int:
        """The level from now on. now: seconds that only grow. room: None while it is unknown, which
        is no reason to go up, and after a while none to stay. ahead: what there soon will be."""
        before = self.level
        if room is None:
            self._short_since = None
            self._descend(now, float("inf"))
        else:
            ahead = room if ahead is None else ahead
            self._climb(now, room, ahead)
            if self.level == before:
                self._descend(now, min(room, ahead))
        return self.level

    def wait(self, level: int) -> float:
        """Seconds until that level at the earliest, if there is room enough from now on."""
        return max(0, self.level - level) * self._hold

    def _climb(self, now: float, room: float, ahead: float) -> None:
        if self.level == len(self.rungs):
            return
        rung = self.rungs[self.level]
        short = min(room, ahead) if rung.foreseen else room
        if short > rung.room or (room > 0 and ahead - room > self._slack * GROWS):
            self._short_since = None
            return
        self._short_since = now if self._short_since is None else self._short_since
        if now - self._short_since < rung.after:
            return
        if self._left_at is not None:
            left, had = self._left_at
            if now - left < RELAPSE:
                self._hold = min(self._hold * 2, LONGEST_HOLD)
                self._too_early = had
            else:
                self._hold, self._too_early = HOLD, float("inf")
        # Several rungs in a row tell once that it was too early.
        self._left_at = self._ample_since = self._short_since = None
        self.level += 1

    def _descend(self, now: float, room: float) -> None:
        if self.level == 0 or room < self.rungs[self.level - 1].room + self._slack:
            self._ample_since = None
            return
        self._ample_since = now if self._ample_since is None else self._ample_since
        hold = HOLD if room >= self._too_early + self._better else self._hold
        if now - self._ample_since < hold:
            return
        self.level -= 1
        self._left_at, self._ample_since = (now, room), None
