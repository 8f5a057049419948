"""The breaker's states, stepped with a clock of the test's own."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cloud.breaker import TRIAL_RETRY, WINDOW, Breaker, Permit
from edge.config import answering

End = Literal["works", "fails", "unreachable", "silent", "refuses", "leaves"]


class Stepped:
    """A breaker with a clock, and the ends that a request can come to."""

    def __init__(self, **settings: float) -> None:
        self.now = 1000.0
        wanted = {"failure_ratio": 0.5, "min_requests": 10, "consecutive": 3, "open_seconds": 30}
        self.breaker = Breaker(answering.Breaker(**{**wanted, **settings}), clock=lambda: self.now)  # type: ignore[arg-type]

    def end(self, permit: Permit, how: End) -> None:
        if how == "works":
            self.breaker.succeeded(permit)
        elif how == "refuses":
            self.breaker.alive(permit)
        elif how != "leaves":
            reached = {"fails": True, "unreachable": False, "silent": None}[how]
            self.breaker.failed(permit, reached=reached)
        self.breaker.left(permit)

    def ask(self, *ends: End) -> None:
        for how in ends:
            self.end(self.breaker.enter(), how)


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (["fails"] * 2, "closed"),
        (["fails"] * 3, "open"),
        (["fails", "fails", "works", "fails", "fails"], "closed"),
        (["fails", "fails", "refuses", "leaves", "fails"], "open"),
        (["refuses"] * 50, "closed"),
        (["leaves"] * 50, "closed"),
        (["fails", "works"] * 4, "closed"),
        (["works", "fails"] * 5, "open"),
        (["works", "works", "fails"] * 20, "closed"),
    ],
)
def test_when_it_opens(ends: list[End], state: str) -> None:
    """Failures in a row, or a part of enough requests; refusals and leavers do not count."""
    stepped = Stepped()
    stepped.ask(*ends)
    assert stepped.breaker.state == state


def test_old_failures_are_forgotten() -> None:
    """Only the last minute counts for the ratio."""
    stepped = Stepped()
    stepped.ask(*["fails", "works"] * 4)
    stepped.now += WINDOW + 1
    stepped.ask(*["fails", "works"] * 4)
    assert stepped.breaker.state == "closed"


def test_one_trial() -> None:
    """After a while one request goes through, and its success lets the others follow."""
    stepped = Stepped()
    stepped.ask("fails", "fails", "fails")
    assert stepped.breaker.blocked() == 30
    stepped.now += 29
    assert stepped.breaker.blocked() == 1
    stepped.now += 1
    assert stepped.breaker.state == "half_open"
    trial = stepped.breaker.enter()
    assert stepped.breaker.blocked() == TRIAL_RETRY
    with pytest.raises(AssertionError):
        stepped.breaker.enter()
    stepped.end(trial, "works")
    assert stepped.breaker.state == "closed"
    stepped.ask("fails", "fails")
    assert stepped.breaker.state == "closed"


@pytest.mark.parametrize(
    ("end", "state"),
    [("works", "closed"), ("refuses", "closed"), ("fails", "open"), ("leaves", "half_open")],
)
def test_ends_of_a_trial(end: End, state: str) -> None:
    """A refusal is a sign of life; a client that leaves makes room for another trial."""
    stepped = Stepped()
    stepped.ask("fails", "fails", "fails")
    stepped.now += 30
    stepped.ask(end)
    assert stepped.breaker.state == state
    assert (stepped.breaker.blocked() is None) == (state != "open")


def test_late_news() -> None:
    """Requests of the time before it opened say nothing about the time after."""
    stepped = Stepped()
    early = [stepped.breaker.enter() for _ in range(6)]
    for permit in early[:3]:
        stepped.end(permit, "fails")
    stepped.end(early[3], "works")
    assert stepped.breaker.state == "open"
    stepped.now += 30
    trial = stepped.breaker.enter()
    stepped.end(early[4], "fails")
    assert stepped.breaker.blocked() == TRIAL_RETRY
    stepped.end(trial, "works")
    stepped.end(early[5], "fails")
    stepped.ask("fails", "fails")
    assert stepped.breaker.state == "closed"


@pytest.mark.parametrize(
    ("why", "looked", "state"),
    [
        ("unreachable", "up", "half_open"),
        ("fails", "up", "open"),
        ("silent", "up", "open"),
        ("silent", "down up", "half_open"),
        ("fails", "down up", "open"),
        ("works", "up", "closed"),
    ],
)
def test_link_returns(why: End, looked: str, state: str) -> None:
    """What was only unreachable is tried as soon as it can be reached; nothing is closed by it."""
    stepped = Stepped(consecutive=1)
    stepped.ask(why)
    for what in looked.split():
        stepped.breaker.unreachable() if what == "down" else stepped.breaker.reachable()
    assert stepped.breaker.state == state
    if state == "half_open":
        stepped.ask("fails")
        stepped.breaker.reachable()
        assert stepped.breaker.state == "open"


STEP = st.one_of(
    st.sampled_from(["enter", "reachable", "unreachable"]),
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["works", "fails", "unreachable", "silent", "refuses", "leaves"]),
    ),
    st.floats(0.1, 40),
)


@given(st.lists(STEP, max_size=60))
def test_any_order(steps: list[object]) -> None:
    """It never lets two trials through, never stays shut, and closes only by a request's end."""
    stepped = Stepped(consecutive=2)
    breaker, out = stepped.breaker, []
    trials = 0
    for step in steps:
        before = breaker.state
        if isinstance(step, float):
            stepped.now += step
            assert breaker.state == before or (before, breaker.state) == ("open", "half_open")
        elif step == "enter":
            if breaker.blocked() is None:
                out.append(breaker.enter())
                trials = trials + 1 if before == "half_open" else 0
            assert trials <= 1 or breaker.state != "half_open"
        elif isinstance(step, str):
            getattr(breaker, step)()
            assert before == breaker.state or step == "reachable"
            assert breaker.state != "closed" or before == "closed"
        elif out:
            permit = out.pop(step[0] % len(out))  # type: ignore[index]
            stepped.end(permit, step[1])  # type: ignore[index]
            trials = 0 if breaker.blocked() is None or breaker.state != "half_open" else trials
    for permit in out:
        breaker.left(permit)
    stepped.now += 30
    assert breaker.blocked() is None
