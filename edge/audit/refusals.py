"""Refusals by address: the first ones of each are told singly, the others as a number.

Whoever floods the gate does not fill the log. Owned by the event loop; reads no clock.
"""

from __future__ import annotations

TOLD = 10
"""Of one address in one window."""

WINDOW_SECONDS = 60.0
MOST_KNOWN = 1000
"""Addresses in one window; all others count as one."""

OTHERS = "others"


class Refusals:
    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._since = float("-inf")

    def tell(self, address: str) -> bool:
        """Count one. Whether it is to be told by itself."""
        known = address in self._counts or len(self._counts) < MOST_KNOWN
        name = address if known else OTHERS
        self._counts[name] = self._counts.get(name, 0) + 1
        return known and self._counts[name] <= TOLD

    def untold(self, now: float) -> dict[str, int]:
        """When the window has ended: by address, how many were not told. now: monotonic."""
        if now - self._since < WINDOW_SECONDS:
            return {}
        self._since = now
        counts, self._counts = self._counts, {}
        told = {name: 0 if name == OTHERS else TOLD for name in counts}
        return {name: n - told[name] for name, n in counts.items() if n > told[name]}
