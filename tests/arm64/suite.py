"""One run of a part of the test suite on ARM64, and what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from board import MODELS, PLACE, REPORT, VENV, Board

SLOWER = 20
"""How many times longer the tests wait for things than they do elsewhere."""

INSIDE = PLACE / "tests/arm64"


class Result(NamedTuple):
    """One test. outcome: passed, failed, skipped or too slow. said: why, where it did not pass."""

    test: str
    outcome: str
    said: str
    seconds: float


Run = Callable[..., list[Result]]
"""Runs tests by their names, with the wheel in the folder that a variable names, and with a limit
of their own if there is one."""

ENDED = (0, 1, 5)
"""pytest's exit codes after tests that passed, some that did not, and none."""


def run(
    folder: Path, venv: Path, models: Path, names: Sequence[str], limit: int
) -> tuple[int, list[Result]]:
    """pytest's exit code and what came of the tests, which are named by their paths.

    folder: takes pytest's own report and whatever the tests leave. limit: seconds for one test;
    one that takes longer is too slow.
    """
    report = folder / "report"
    report.mkdir(parents=True)
    board = Board(folder, {venv: VENV, models: MODELS, report: REPORT})
    options = ["-p", "inside", "-p", "no:cacheprovider", "--timeout", str(limit)]
    # Telling of a failure is no part of the test, and takes long enough to be broken off.
    options += ["-o", "timeout_func_only=true"]
    # What a test that was broken off leaves behind is found in the middle of another.
    options += ["-W", "default::pytest.PytestUnraisableExceptionWarning"]
    # As scripts/test does: a file stays together, in the order of tests/conftest.py.
    options += ["--numprocesses", "logical", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = board.run(
        *(f"{VENV}/bin/python", "-m", "pytest", *options, *names),
        log=report / "log",
        PYTHONPATH=str(INSIDE),
        EDGE_TEST_MODEL_DIR=str(MODELS),
        EDGE_TEST_PATIENCE=str(SLOWER),
    )
    return done.returncode, read(report / "results.jsonl")


def read(file: Path) -> list[Result]:
    """A test that passed, and broke while it was cleared away, counts as what it did last."""
    lines = file.read_text().splitlines() if file.is_file() else []
    found = (Result(**json.loads(line)) for line in lines)
    return list({one.test: one for one in found}.values())


def counts(results: list[Result]) -> str:
    told = Counter(one.outcome for one in results)
    reasons = Counter(one.said for one in results if one.outcome == "skipped")
    lines = [", ".join(f"{number} {outcome}" for outcome, number in sorted(told.items()))]
    lines += [f"  skipped, {number}: {reason}" for reason, number in reasons.most_common()]
    lines += [f"  too slow: {one.test}" for one in results if one.outcome == "too slow"]
    lines += [f"  FAILED: {one.test}" for one in results if one.outcome == "failed"]
    return "\n".join(lines)
