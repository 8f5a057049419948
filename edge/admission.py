"""Whether a request may come in, decided before any work is done for it.

Pure policy: it looks at numbers, and answers or raises. The bound on waiting requests is what
keeps the queue visible: whoever would wait for too long is told so at once, with a time to
come back.
"""

from __future__ import annotations

from edge.config.doors import Limits
from edge.errors import InvalidRequest, Overloaded

LONGEST_RETRY = 60.0


class Admission:
    """Remembers only how long requests take, to tell refused ones when to come back."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._mean_seconds = 1.0

    def check(self, *, wanted: int, live: int, slots: int, urgent: bool = False) -> None:
        """Admit `wanted` more sequences beside `live` ones, or raise.

        urgent: it does not wait behind the others, and so their number does not keep it out.
        Raises `InvalidRequest` when so many can never be served at once, `Overloaded` when they
        cannot now.
        """
        room = slots + self.limits.max_waiting
        if wanted > room:
            raise InvalidRequest(
                f"{wanted} answers are asked for at once, and {room} is the most served here",
                param="n",
            )
        if urgent:
            room += slots
        if live + wanted > room:
            raise Overloaded(
                f"{live - slots} requests wait already, which is the limit",
                hint="come back later, or raise limits.max_waiting",
                retry_after=self.retry_after(live, slots),
            )

    def waited_too_long(self, live: int, slots: int) -> Overloaded:
        return Overloaded(
            f"no slot was free within {self.limits.max_wait_seconds:g} s",
            retry_after=self.retry_after(live, slots),
        )

    def observe(self, seconds: float) -> None:
        """A request took this long, from its slot to its end."""
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)

    def retry_after(self, live: int, slots: int) -> float:
        """Seconds until the requests before a new one will be done, by the mean of late ones."""
        rounds = max(live, 1) / max(slots, 1)
        return min(LONGEST_RETRY, max(1.0, rounds * self._mean_seconds))
