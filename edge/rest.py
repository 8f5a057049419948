"""How long a worker computes nothing between two steps, so that the machine cools: the pace's duty.

Owned by the thread that computes.
"""

from __future__ import annotations

from collections.abc import Collection

from edge.types import Pace, Priority


class Rest:
    """After one step, until the next."""

    def __init__(self) -> None:
        self._worked = 0.0
        self._ended = 0.0

    def worked(self, seconds: float, now: float) -> None:
        """A step that took so long has ended."""
        self._worked, self._ended = seconds, now

    def left(self, pace: Pace, waiting: Collection[Priority], now: float) -> float:
        """Seconds until the next step. waiting: of all that run or want to; the most urgent says
        how long, and for a critical one, or for nobody, there is no rest."""
        if not waiting or "critical" in waiting:
            return 0.0
        duty = pace.duty if "normal" in waiting else pace.batch_duty
        return max(0.0, self._worked * (1 / duty - 1) - (now - self._ended))
