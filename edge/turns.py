"""Whose turn it is among callers who want the same thing.

Start-time fair queueing (Goyal, Vin, Cheng, 1996): what a caller gets begins where its last one
ended, or now, if it has asked for nothing meanwhile; the earliest beginning is served first. So
callers take turns however much one of them asks for, nobody saves up turns by being silent, and
nobody waits forever. `now` of this clock moves with service and not with time.
"""

from __future__ import annotations


class Turns:
    """Remembers only callers that are ahead of the others."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def place(self, caller: str) -> float:
        """Where the caller's next piece begins; the lowest place is next."""
        return max(self._now, self._ends.get(caller, 0.0))

    def serve(self, caller: str, amount: float = 1.0) -> None:
        """The caller got so much, in whatever unit all are served in."""
        begin = self.place(caller)
        self._now = begin
        self._ends[caller] = begin + amount
        self._ends = {name: end for name, end in self._ends.items() if end > self._now}
