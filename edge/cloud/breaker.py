"""Whether an upstream may be asked: a circuit breaker, as a pure state machine.

    closed --(failures)--> open --(open_seconds, or reachable again)--> half_open
    half_open --(its one trial works)--> closed
    half_open --(its one trial fails)--> open

It acts on nobody: whoever asks the upstream calls `enter`, and one of `succeeded`, `failed` and
`left` afterwards. Owned by the event loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge.config import answering

State = Literal["closed", "half_open", "open"]

WINDOW = 60.0
"""Seconds over which the failure ratio is taken."""

TRIAL_RETRY = 1.0
"""Seconds after which to ask again while another request tries the upstream out."""


@dataclass(eq=False)
class Permit:
    """Leave for one request, good for the period in which it was given."""

    period: int
    settled: bool = False


class Breaker:
    """The state machine. clock: monotonic seconds."""

    def __init__(
        self, settings: answering.Breaker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._state: State = "closed"
        self._period = 0
        self._trial: Permit | None = None
        self._half_open_at = 0.0
        self._reached: bool | None = True
        self._in_a_row = 0
        self._results: deque[tuple[float, bool]] = deque()

    @property
    def state(self) -> State:
        if self._state == "open" and self.clock() >= self._half_open_at:
            return "half_open"
        return self._state

    def blocked(self) -> float | None:
        """Seconds after which to look again, None if a request may go through now."""
        state = self.state
        if state == "open":
            return self._half_open_at - self.clock()
        if state == "half_open" and self._trial is not None:
            return TRIAL_RETRY
        return None

    def enter(self) -> Permit:
        """Let one request through; only while nothing is `blocked`."""
        assert self.blocked() is None, "asked for leave although the breaker says no"
        if self.state != "half_open":
            return Permit(self._period)
        self._become("half_open")
        self._trial = Permit(self._period)
        return self._trial

    def succeeded(self, permit: Permit) -> None:
        """It answered."""
        if self._settle(permit):
            if self._state == "half_open":
                self._become("closed")
            else:
                self._in_a_row = 0
                self._record(worked=True)

    def alive(self, permit: Permit) -> None:
        """It refused for a reason that is not its own: no failure, and no success either."""
        if self._settle(permit) and self._state == "half_open":
            self._become("closed")

    def failed(self, permit: Permit, *, reached: bool | None = True) -> None:
        """It did not answer as it should.

        reached: False if no connection came about, None if it fell silent and nobody knows why.
        """
        if not self._settle(permit):
            return
        if self._state == "half_open":
            self._open(reached)
            return
        self._in_a_row += 1
        self._record(worked=False)
        if self._in_a_row >= self.settings.consecutive or self._ratio_passed():
            self._open(reached)

    def left(self, permit: Permit) -> None:
        """The request ended with nothing learned, for example because its client went away."""
        self._settle(permit)

    def reachable(self) -> None:
        """The upstream can be reached again. If that was all that was wrong, it is worth a try."""
        if self.state == "open" and self._reached is False:
            self._become("half_open")

    def unreachable(self) -> None:
        """The upstream cannot be reached now; so that was it, if it opened without knowing why."""
        if self.state == "open" and self._reached is None:
            self._reached = False

    def _settle(self, permit: Permit) -> bool:
        """True the first time, and only for a permit of this period: news of the time before a
        change says nothing about the time after it."""
        if self._trial is permit:
            self._trial = None
        fresh = not permit.settled and permit.period == self._period
        permit.settled = True
        return fresh

    def _become(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._period += 1
            self._trial = None
            self._in_a_row = 0
            self._results.clear()

    def _open(self, reached: bool | None) -> None:
        self._become("open")
        self._half_open_at = self.clock() + self.settings.open_seconds
        self._reached = reached

    def _record(self, *, worked: bool) -> None:
        now = self.clock()
        self._results.append((now, worked))
        while self._results[0][0] <= now - WINDOW:
            self._results.popleft()

    def _ratio_passed(self) -> bool:
        count = len(self._results)
        if count < self.settings.min_requests:
            return False
        failures = sum(not worked for _, worked in self._results)
        return failures / count >= self.settings.failure_ratio
