"""How warm it will be soon, from how fast it gets warmer: pure, on the caller's clock.

A machine under constant load warms up ever more slowly, towards a balance. A straight line through
the last readings is therefore early and never late, which is the side to err on; and it is good
for a minute or two, not for more.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

from edge.host.thermal import Zone

HORIZON = 120.0
"""Seconds that a straight line is believed for."""

_WINDOW = 20.0
"""Seconds of readings that the line is laid through: enough for the noise of a sensor (half a
degree) to weigh little, and few enough to follow a load that has just begun."""

_FEWEST = 5


class Forecast:
    """One sensor's. Owned by whoever notes its readings."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque()

    def note(self, now: float, celsius: float | None) -> None:
        """now: seconds that only grow. A reading that is unknown is left out; after a gap as long
        as the window there is nothing left of what was before."""
        while self._readings and now - self._readings[0][0] > _WINDOW:
            self._readings.popleft()
        if celsius is not None:
            self._readings.append((now, celsius))

    def slope(self) -> float | None:
        """Degrees a second, by least squares; None for too few readings, or over too short a
        time."""
        count = len(self._readings)
        if count < _FEWEST or self._readings[-1][0] - self._readings[0][0] < _WINDOW / 2:
            return None
        middle = sum(now for now, _ in self._readings) / count
        mean = sum(celsius for _, celsius in self._readings) / count
        above = sum((now - middle) * (celsius - mean) for now, celsius in self._readings)
        return above / sum((now - middle) ** 2 for now, _ in self._readings)

    def ahead(self, seconds: float) -> float | None:
        """Degrees so many seconds after the last reading."""
        slope = self.slope()
        if slope is None:
            return None
        return self._level(slope) + slope * seconds

    def until(self, limit: float) -> float | None:
        """Seconds from the last reading until `limit` degrees are reached: 0 when they are,
        infinite where it does not get warmer by a step of the sensor, None where that is not
        known."""
        if self._readings and self._readings[-1][1] >= limit:
            return 0.0
        slope = self.slope()
        if slope is None:
            return None
        return max(0.0, (limit - self._level(slope)) / slope) if slope > 0 else math.inf

    def _level(self, slope: float) -> float:
        """Where the line is at the last reading, which is quieter than the reading."""
        count = len(self._readings)
        middle = sum(now for now, _ in self._readings) / count
        mean = sum(celsius for _, celsius in self._readings) / count
        return mean + slope * (self._readings[-1][0] - middle)


class Expected(msgspec.Struct, frozen=True):
    """zone: it will be slowed down in about so many seconds if it goes on like this."""

    zone: str
    seconds: float


class Outlook:
    """The forecasts of all zones that have a point where they throttle."""

    def __init__(self) -> None:
        self._forecasts: dict[str, Forecast] = {}

    @property
    def rises(self) -> dict[str, float]:
        """Degrees a second by zone, of those of which it is known."""
        slopes = {name: forecast.slope() for name, forecast in self._forecasts.items()}
        return {name: slope for name, slope in slopes.items() if slope is not None}

    def note(self, now: float, zones: dict[str, Zone]) -> Expected | None:
        """The zone that is slowed down first within the horizon; None where none will be, as far
        as that is known."""
        soonest: Expected | None = None
        for name, zone in zones.items():
            if zone.throttles_at is None:
                continue
            forecast = self._forecasts.setdefault(name, Forecast())
            forecast.note(now, zone.celsius)
            seconds = forecast.until(zone.throttles_at)
            if seconds is None or seconds > HORIZON:
                continue
            if soonest is None or seconds < soonest.seconds:
                soonest = Expected(name, seconds)
        return soonest
