"""The policy on a board that its levels cool: it settles, and the board does not slow down."""

from __future__ import annotations

import pytest
from warm_board import THROTTLES_AT, Board

from edge.config.machine import Heat, Power
from edge.heat.policy import AVERAGE, Policy, nearest
from edge.host.power import Power as Drawn
from edge.host.sensors import HostFacts
from edge.host.thermal import Zone

HOUR = 3600


@pytest.mark.parametrize("air", [30, 45, 50, 55, 60, 65, 70, 75])
def test_board_under_load_settles_below_its_limit(air: float) -> None:
    """At one level, or with a try of the next lower one now and then."""
    board = Board(lambda _: air).run(4 * HOUR)
    assert board.hottest(4 * HOUR) < THROTTLES_AT
    assert board.changes(2 * HOUR) <= 15
    late = {level for level, _ in board.trace[-2 * HOUR :]}
    assert max(late) - min(late) <= 1


def test_without_the_policy_the_same_board_is_slowed_down() -> None:
    board = Board(lambda _: 60, heat=Heat(enabled=False)).run(HOUR)
    assert board.hottest(HOUR) > THROTTLES_AT
    assert board.levels == [0]


def test_hot_hours_come_and_go() -> None:
    """Rung by rung up, batch work first, and all the way down again, once."""
    board = Board(lambda now: 62 if 1800 < now < 2 * HOUR else 30).run(3 * HOUR)
    assert board.levels == [0, 1, 2, 1, 0]
    assert board.hottest(3 * HOUR) < THROTTLES_AT


def test_hopeless_heat_leaves_critical_work_alone() -> None:
    board = Board(lambda _: 90).run(HOUR)
    assert board.levels == [0, 1, 2, 3, 4, 5]
    assert board.standing.reason == "heat"


@pytest.mark.parametrize("budget", [45, 35, 28, 22, 17])
def test_watts_come_below_their_budget(budget: float) -> None:
    board = Board(lambda _: 20, power=Power(budget)).run(4 * HOUR)
    late = [board.watts[level] for level, _ in board.trace[-2 * HOUR :]]
    over = max((watts for watts in late if watts > budget), default=None)
    assert board.changes(2 * HOUR) <= 15
    # A try of the next lower level may be over it, for as long as it takes to notice.
    assert over is None or late.count(over) <= 15 / 2 * 2 * AVERAGE
    assert max(level for level, _ in board.trace) <= 4


def test_budget_that_cannot_be_kept_refuses_no_more_than_what_may_wait() -> None:
    board = Board(lambda _: 20, power=Power(5)).run(HOUR)
    assert board.standing.level == 4
    assert board.standing.reason == "power"
    assert board.standing.text.startswith("the machine draws 16.0 W of a budget of 5 W: ")


def test_only_points_that_the_kernel_enforces_count() -> None:
    """A processor of a PC that works at its own limit, and a sensor with a number of its own."""
    zones = {
        "coretemp Package id 0": Zone(99.0, 100.0, None),
        "SEN1": Zone(60.0, 55.0),
        "board": Zone(120.0),
        "cv0-thermal": Zone(None, 99.0, 104.5, enforced=True),
    }
    assert nearest(zones, {}) is None
    policy = Policy(Heat(), Power())
    for now in range(1000):
        standing = policy.note(now, HostFacts(temperatures=zones))
    assert standing.level == 0
    near = nearest(zones | {"cpu-thermal": Zone(95.0, 99.0, enforced=True)}, {"cpu-thermal": 0.1})
    assert near is not None
    assert (near.zone, near.room, near.ahead) == ("cpu-thermal", 4.0, 2.0)


def test_unknown_is_said_as_unknown() -> None:
    """Where it was hot before. Without any reading nothing is done."""
    policy = Policy(Heat(), Power(10))
    assert policy.note(0, HostFacts()).level == 0
    hot = HostFacts(temperatures={"cpu": Zone(94.0, 99.0, enforced=True)})
    for now in range(30):
        standing = policy.note(now, hot)
    assert standing.text.startswith("the machine is at 94.0 °C and slows down at 99 °C: batch work")
    gone = policy.note(31, HostFacts(power=Drawn({}, None, None)))
    assert gone.level == standing.level
    assert "its temperature is unknown now" in gone.text
