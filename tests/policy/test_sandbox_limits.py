"""The time limit of templates, where Python would lose what is raised."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from edge.sandbox import Limits


def numbers() -> Iterator[int]:
    while True:
        yield 1


def test_a_limit_that_is_met_while_a_generator_is_closed() -> None:
    """What is raised then goes nowhere, and nobody would look at the time any more."""
    limits = Limits(0.05)

    def body() -> None:
        held = [numbers()]
        next(held[0])
        # One line, so that the closing is the first thing traced after the limit.
        (sum(range(10_000_000)), held.clear())
        while True:
            pass

    with pytest.raises(TimeoutError), limits:
        body()


def test_a_generator_without_an_end() -> None:
    """It is ended in its own lines, though nothing is raised where it is entered."""
    with pytest.raises(TimeoutError), Limits(0.05):
        sum(numbers())


def test_waiting_is_not_running() -> None:
    """A machine that is busy with other things makes no template too slow."""
    with Limits(0.05):
        time.sleep(0.2)
        assert numbers()
