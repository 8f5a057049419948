"""Up one rung at a time, down only after long, and never to and fro, whatever the room does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.heat.ladder import HOLD, LONGEST_HOLD, Ladder, Rung

RUNGS = (Rung(8, 5, foreseen=True), Rung(6, 5, foreseen=True), Rung(4, 5), Rung(2, 5), Rung(0, 60))
HOUR = 3600
MOST_AN_HOUR = 100
"""Changes that nothing gets past. A rung is left after a minute of ample room at the earliest, so
that to the top and back, which are ten changes, takes more than six."""


def ladder() -> Ladder:
    return Ladder(RUNGS, slack=3, better=4)


def most_in_an_hour(rooms: Callable[[int, int], float], hours: int = 4) -> int:
    """Changes in the busiest hour. rooms: by the second and the level, as an enemy would."""
    steps, changes = ladder(), []
    for now in range(hours * HOUR):
        before = steps.level
        if steps.note(now, rooms(now, before)) != before:
            changes.append(now)
    return max((sum(at <= one < at + HOUR for one in changes) for at in changes), default=0)


def climb(steps: Ladder, now: float, room: float, to: int) -> float:
    while steps.level < to:
        now += 1
        steps.note(now, room)
    return now


def test_one_rung_at_a_time_and_only_as_far_as_the_room_tells() -> None:
    """One reading alone, such as a sensor's slip, is no reason."""
    steps = ladder()
    assert steps.note(0, 1.0) == 0
    assert steps.note(1, 50.0) == 0
    assert [steps.note(now, 1.0) for now in range(2, 40, 5)] == [0, 1, 1, 2, 2, 3, 3, 4]
    steps = ladder()
    assert [steps.note(now, 5.0) for now in range(0, 40, 5)] == [0, 1, 1, 2, 2, 2, 2, 2]


def test_last_rung_takes_a_minute_at_the_limit() -> None:
    steps = ladder()
    now = climb(steps, 0, -1.0, 4)
    levels = [steps.note(now + second, -1.0) for second in range(1, 70)]
    assert levels.index(5) == 60


def test_forecast_alone_touches_batch_work_only() -> None:
    steps = ladder()
    for now in range(100):
        steps.note(now, 12.0, ahead=-20.0)
    assert steps.level == 2


def test_nothing_is_climbed_while_the_room_grows() -> None:
    """What was done already works; at the limit itself that is no comfort."""
    steps = ladder()
    for now in range(100):
        steps.note(now, 1.0, ahead=3.0)
    assert steps.level == 0
    for now in range(100, 200):
        steps.note(now, -1.0, ahead=3.0)
    assert steps.level == 5


def test_a_rung_is_left_after_a_minute_of_more_room_than_it_took() -> None:
    steps = ladder()
    now = climb(steps, 0, 5.0, 2)
    for second in range(200):
        steps.note(now + second, 8.9)
    assert steps.level == 2
    now += 200
    levels = [steps.note(now + second, 9.0) for second in range(61)]
    assert levels.index(1) == HOLD
    # One short moment, and it begins anew.
    steps.note(now + 100, 10.0)
    assert steps.wait(0) == HOLD


def test_way_down_that_was_too_early_waits_twice_as_long() -> None:
    """Unless there is clearly more room than when it was too early."""
    steps = ladder()
    now = climb(steps, 0, 7.0, 1)
    took = []
    for _ in range(6):
        began = now
        while steps.level:
            now += 1
            steps.note(now, 12.0)
        took.append(now - began - 1)
        now = climb(steps, now, 7.0, 1)
    assert took == [HOLD, 2 * HOLD, 4 * HOLD, 8 * HOLD, LONGEST_HOLD, LONGEST_HOLD]
    levels = [steps.note(now + second, 16.0) for second in range(1, 100)]
    assert levels.index(0) == HOLD


def test_unknown_is_no_reason_to_go_up_and_after_a_while_none_to_stay() -> None:
    steps = ladder()
    now = climb(steps, 0, 1.0, 3)
    levels = [steps.note(now + second, None) for second in range(1, 300)]
    assert levels[: int(HOLD)] == [3] * int(HOLD)
    assert levels[-1] == 0


@given(
    st.lists(st.tuples(st.integers(1, 600), st.floats(-20, 80)), min_size=1, max_size=60),
    st.floats(0, 5),
)
def test_no_trace_makes_it_flap(pieces: list[tuple[int, float]], noise: float) -> None:
    chance = random.Random(1)
    rooms = [room for seconds, room in pieces for _ in range(seconds)]

    def room(now: int, _: int) -> float:
        return rooms[now % len(rooms)] + chance.uniform(-noise, noise)

    assert most_in_an_hour(room, hours=2) <= MOST_AN_HOUR


def enemy(plan: list[tuple[int, float]]) -> Callable[[int, int], float]:
    """One that knows the level. There is room until the level has come down to the next of the
    plan, and then none until all is held back."""
    turn, falling = 0, True

    def room(_: int, level: int) -> float:
        nonlocal turn, falling
        least, ample = plan[turn % len(plan)]
        if falling and level <= least:
            falling = False
        elif not falling and level == len(RUNGS):
            turn, falling = turn + 1, True
        return ample if falling else -5.0

    return room


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(3, 60)), min_size=1, max_size=40))
def test_no_enemy_makes_it_flap(plan: list[tuple[int, float]]) -> None:
    assert most_in_an_hour(enemy(plan), hours=2) <= MOST_AN_HOUR


@pytest.mark.parametrize("least", [0, 3, 4])
def test_enemy_that_leaves_more_room_each_time_does_not_make_it_flap(least: int) -> None:
    """That is why it tries again early."""
    plan = [(least, 11 + 4.01 * turn) for turn in range(12)]
    assert most_in_an_hour(enemy(plan), hours=2) <= MOST_AN_HOUR


@pytest.mark.parametrize("ample", [11.0, 30.0])
def test_same_two_rooms_again_and_again_come_to_rest(ample: float) -> None:
    """A load that needs a level and does not at the next: a try every 16 minutes is left."""
    steps, changes = ladder(), 0
    for now in range(4 * HOUR):
        before = steps.level
        steps.note(now, 7.0 if before == 0 else ample)
        changes += now >= 2 * HOUR and steps.level != before
    assert changes <= 2 * (2 * HOUR / LONGEST_HOLD)
