"""What is left out on ARM64 is there, and nothing else is."""

from __future__ import annotations

import pytest
from board import TREE
from inside import LEFT_OUT, why_left_out


@pytest.mark.parametrize("name", [name for names in LEFT_OUT.values() for name in names])
def test_what_is_left_out_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert f"def {function or 'test_'}" in (TREE / file).read_text()
    assert why_left_out(f"{name}[any case]")


def test_its_neighbours_are_not_left_out() -> None:
    assert why_left_out("tests/mqtt/test_kept_first.py::test_a_full_queue") is None
