"""A stretch of time and who computed in it."""

from __future__ import annotations

import pytest

from edge.energy.sharing import Work, seconds_of


def test_moment_belongs_to_those_who_compute_at_it() -> None:
    """One alone has it whole, two share it, and where nobody computes it is nobody's."""
    works = [
        Work(0.0, 4.0, {"a": 1.0}),
        Work(2.0, 6.0, {"b": 1.0}),
        Work(9.0, 12.0, {"c": 1.0}),
        Work(20.0, 30.0, {"d": 1.0}),
    ]
    found = seconds_of(1.0, 10.0, works)
    assert found == pytest.approx({"a": 2.0, "b": 3.0, "c": 1.0})


def test_computation_is_shared_by_its_parts() -> None:
    """What of it is nobody's any more stays nobody's."""
    works = [Work(0.0, 2.0, {"a": 0.25, "b": 0.5}), Work(2.0, 3.0, {"a": 1.0})]
    assert seconds_of(0.0, 4.0, works) == pytest.approx({"a": 1.5, "b": 1.0})


def test_stretch_without_computations() -> None:
    assert seconds_of(0.0, 1.0, []) == {}
