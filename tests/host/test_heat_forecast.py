"""Forecasts of temperature on rises as boards have shown them, on the test's clock."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from edge.host.forecast import HORIZON, Expected, Forecast, Outlook
from edge.host.thermal import Zone

TICK = 2.0

ORIN, COARSE = 1 / 32, 0.5
"""Degrees from one value of a sensor to the next: Orin's, as published values show, and others'."""

# Without its fan an Orin Nano at full power went from 42 to 85 °C in 9.7 minutes and then still
# rose by 2.3 °C a minute (published by an owner). One time constant fits that: towards 103.6 °C
# by 8.1 minutes.
FANLESS = (42.0, 103.6, 486.0, ORIN)
# A guess at the other end: a small heatsink, a step to full load.
STEEP = (50.0, 110.0, 90.0, COARSE)

Curve = tuple[float, float, float, float]
Rise = Callable[[float], float]


def rise(start: float, balance: float, constant: float) -> Rise:
    return lambda now: balance - (balance - start) * math.exp(-now / constant)


def noted(readings: Rise, until: float, begin: float = 0.0, step: float = ORIN) -> Forecast:
    """What a sensor with such steps has told from `begin` on."""
    forecast = Forecast()
    for tick in range(int((until - begin) / TICK) + 1):
        now = begin + tick * TICK
        forecast.note(now, round(readings(now) / step) * step)
    return forecast


@pytest.mark.parametrize("curve", [FANLESS, STEEP])
def test_rise_is_foreseen_early_and_not_too_early(curve: Curve) -> None:
    """Wherever it is 30 s before: no colder than it comes out, but for the sensor's steps, and at
    most a few degrees warmer."""
    *shape, step = curve
    truth = rise(*shape)
    for now in range(30, 600, 10):
        forecast = noted(truth, float(now), begin=now - 30.0, step=step).ahead(30)
        assert forecast is not None
        # The line bends away by its slope's change within the 30 s ahead and half the window.
        bend = (truth(now) - truth(now - 30.0)) - (truth(now + 30.0) - truth(now))
        assert -2 * step < forecast - truth(now + 30.0) < bend + 3 * step, now


@pytest.mark.parametrize("curve", [FANLESS, STEEP])
def test_limit_is_never_reached_before_it_was_foreseen(curve: Curve) -> None:
    """At least 30 s ahead somebody has been told, and what is told grows no longer towards it."""
    *shape, step = curve
    truth, limit = rise(*shape), 99.0
    reached = next(now for now in range(3600) if truth(now) >= limit)
    told = noted(truth, reached - 30.0, begin=reached - 60.0, step=step).until(limit)
    assert told is not None
    assert told <= 60
    after = noted(truth, reached + TICK, begin=reached - 60.0, step=step).until(limit)
    assert after is not None
    assert after <= TICK


def test_steady_machine_forecasts_nothing() -> None:
    """A sensor that flickers by its half degree is no rise."""
    forecast = Forecast()
    for tick in range(20):
        forecast.note(tick * TICK, 90.0 + 0.5 * (tick % 2))
    until = forecast.until(99.0)
    assert until is not None
    assert until > HORIZON


def test_cooling_machine_never_gets_there() -> None:
    """Not even after hours."""
    forecast = noted(lambda now: 95.0 - now / 10, 60.0)
    assert forecast.until(99.0) == math.inf
    ahead = forecast.ahead(30)
    assert ahead is not None
    assert ahead < 90


def test_step_of_the_load_is_followed_within_the_window() -> None:
    """After long rest: 20 s later the old rest weighs nothing."""
    readings = lambda now: 60.0 if now < 100 else 60.0 + (now - 100) * 0.5  # noqa: E731
    forecast = noted(readings, 122.0)
    slope = forecast.slope()
    assert slope == pytest.approx(0.5, abs=0.05)


def test_unknown_readings() -> None:
    """None until there is enough; gaps are left out; a long one wipes out what was before."""
    forecast = Forecast()
    assert forecast.slope() is None
    assert forecast.until(99.0) is None
    assert forecast.ahead(10) is None
    for tick in range(10):
        forecast.note(tick * TICK, None if tick % 2 else 50.0 + tick)
    assert forecast.slope() == pytest.approx(0.5)
    forecast.note(100.0, 99.5)
    assert forecast.slope() is None
    assert forecast.until(99.0) == 0


def test_first_of_all_zones_is_told() -> None:
    """Each against its own limit; zones without one, and what is far away, are left out."""
    outlook = Outlook()
    expected: Expected | None = None
    for tick in range(11):
        now = tick * TICK
        zones = {
            "cpu": Zone(60.0 + now, 99.0),
            "nvme": Zone(60.0 + now / 2, 75.0),
            "board": Zone(60.0 + now * 2),
            "soc": Zone(None, 99.0),
            "rest": Zone(40.0 + now / 10, 99.0),
        }
        expected = outlook.note(now, zones)
    assert expected is not None
    assert expected.zone == "nvme"  # 5 degrees at half a degree a second
    assert expected.seconds == pytest.approx(10)
    slow = Outlook()
    for tick in range(11):
        assert slow.note(tick * TICK, {"rest": Zone(40.0 + tick / 5, 99.0)}) is None
