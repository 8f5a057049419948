"""When two machines' logits count as the same, and the program that computes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import agree
import numpy as np
import quick_model
from agree import complaints, distance

chance = np.random.default_rng(1)
NATIVE = chance.normal(0, 5, (40, 300)).astype(np.float32)
EXACT = NATIVE + chance.normal(0, 0.1, NATIVE.shape).astype(np.float32)
"""Computed without rounding, it is 0.1 away."""


def test_less_than_rounding_agrees() -> None:
    assert complaints(NATIVE, NATIVE, EXACT, EXACT) == []
    another = EXACT + chance.normal(0, 0.09, NATIVE.shape).astype(np.float32)
    assert distance(NATIVE, another) > distance(NATIVE, EXACT)
    assert complaints(NATIVE, another, EXACT, EXACT) == []


def test_more_than_rounding_does_not() -> None:
    far = NATIVE + chance.normal(0, 0.2, NATIVE.shape).astype(np.float32)
    assert (
        " from this machine's, and rounding makes 0.14" in complaints(NATIVE, far, EXACT, EXACT)[0]
    )
    assert complaints(NATIVE, NATIVE * np.float32("nan"), EXACT, EXACT)[0].startswith(
        "nan from this"
    )


def test_nearer_to_this_machine_than_to_the_truth_is_not_enough() -> None:
    """A fault that goes the way of the rounding and on."""
    further = NATIVE + np.float32(-0.6) * (EXACT - NATIVE)
    (found,) = complaints(NATIVE, further, EXACT, EXACT)
    assert "from the exact ones" in found


def test_fault_that_rounding_hides_is_seen_without_rounding() -> None:
    """Computed for the first texts only, without rounding, and half as far off as that goes."""
    faulty = (EXACT + (NATIVE - EXACT) / np.float32(2))[:10]
    assert complaints(NATIVE, NATIVE, EXACT, EXACT[:10]) == []
    (found,) = complaints(NATIVE, NATIVE, EXACT, faulty)
    assert "apart in 32-bit numbers" in found


def test_what_softmax_does_not_see_does_not_count() -> None:
    assert distance(NATIVE, NATIVE + np.float32(3)) < 1e-5


def test_another_first_token_has_to_be_a_near_tie() -> None:
    """One logit of 12,000 hardly moves the mean, and makes another answer."""
    wrong = NATIVE.copy()
    ranked = np.argsort(NATIVE, axis=1)
    sure = np.diff(np.sort(NATIVE, axis=1))[:, -1].argmax()
    second, first = ranked[sure, -2:]
    wrong[sure, first], wrong[sure, second] = wrong[sure, second], wrong[sure, first]
    gap = NATIVE[sure, first] - NATIVE[sure, second]
    assert distance(NATIVE, wrong) < 0.1
    assert gap > 1
    (found,) = complaints(NATIVE, wrong, EXACT, EXACT)
    assert found.startswith(f"another first token over a gap of {gap:.3f}")


def test_other_texts_are_not_compared() -> None:
    assert complaints(NATIVE, NATIVE[1:], EXACT, EXACT)[0].startswith("shapes differ")


def test_program_computes_what_it_can_be_compared_by(tmp_path: Path) -> None:
    """With the installed llama.cpp: two runs are equal, and weights that are others are told."""
    cross = Path(agree.__file__).parent
    model = quick_model.write(tmp_path / "quick.gguf")
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    for output in (first, second):
        done = subprocess.run(
            [sys.executable, cross / "logits.py", model, output], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    rows = np.load(first)["logits"]
    assert np.isfinite(rows).all()
    assert complaints(rows, np.load(second)["logits"], rows, rows) == []
    tenth = rows + rows.std() / 10 * chance.normal(0, 1, rows.shape).astype(np.float32)
    assert complaints(rows, tenth, rows, rows)
    command = [sys.executable, agree.__file__, first, second, first, second]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "They agree within the rounding of the quantization."
