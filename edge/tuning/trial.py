"""One value against another: rounds of both in turns, and the verdict once there is one.

In turns, so that a machine that slows down slows both, and only their ratio counts. A value is
better when it is faster beyond what the ratios themselves vary by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from statistics import mean, stdev
from typing import Any, Literal, Protocol

import msgspec

from edge.tuning.candidate import Candidate, Figures, typical

LEAST_GAIN = 1.02
"""Faster by less is not worth a change of the configuration."""

LEAST_PAIRS, MOST_PAIRS = 3, 6
"""Rounds of each in turns: at least so many for a verdict, and more while that is open."""

HOPELESS = 0.5
"""A single pair is enough for one that is so slow."""

STUDENT = {1: 31.8, 2: 6.96, 3: 4.54, 4: 3.75, 5: 3.36}
"""Quantiles of Student's t at 99 %, one-sided, by degrees of freedom: a dozen values are tested,
each several times, and no change of a configuration should be luck."""

Verdict = Literal["better", "no better", "changes answers", "out of time", "fails"]


class Stopwatch(Protocol):
    """Where candidates are measured."""

    async def measure(self, candidate: Candidate) -> Figures:
        """One round. Raises `EdgeError` when the candidate does not load or dies."""
        ...


class Trial(msgspec.Struct):
    """One value of one key against the best before it.

    ratio: its score over the other's. low, high: where the true ratio lies, at 98 %.
    figures: medians. agreement: None where it cannot change answers, or was not looked at.
    """

    key: str
    value: Any
    verdict: Verdict = "out of time"
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    figures: Figures | None = None
    agreement: float | None = None
    error: str | None = None


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Where the true ratio lies, but for 1 % below and 1 % above. At least two are needed."""
    logs = [log(ratio) for ratio in ratios]
    freedom = len(logs) - 1
    reach = STUDENT[min(freedom, max(STUDENT))] * stdev(logs) / sqrt(len(logs))
    return exp(mean(logs) - reach), exp(mean(logs) + reach)


async def compare(
    stopwatch: Stopwatch,
    trial: Trial,
    best: Candidate,
    candidate: Candidate,
    in_time: Callable[[], bool],
) -> list[Figures]:
    """Fill in the trial, until there is a verdict or no time. Returns the rounds of `best`.

    Raises `EdgeError` where one of the two does not load or dies.
    """
    ratios: list[float] = []
    rounds: dict[bool, list[Figures]] = {True: [], False: []}
    while len(ratios) < MOST_PAIRS and in_time():
        # Who goes second may profit from what the first warmed up: they alternate.
        for is_best in (True, False) if len(ratios) % 2 == 0 else (False, True):
            one = best if is_best else candidate
            rounds[is_best].append(await stopwatch.measure(one))
        ratios.append(rounds[False][-1].score / rounds[True][-1].score)
        _note(trial, ratios, rounds[False])
        if trial.verdict != "out of time":
            break
    return rounds[True]


def _note(trial: Trial, ratios: list[float], rounds: list[Figures]) -> None:
    """Write down what is known, and the verdict once there is one."""
    trial.figures = typical(rounds)
    trial.ratio = exp(mean(log(ratio) for ratio in ratios))
    if len(ratios) < 2:
        trial.verdict = "no better" if trial.ratio < HOPELESS else trial.verdict
        return
    trial.low, trial.high = interval(ratios)
    if max(ratios) < 1 or trial.high < LEAST_GAIN:
        trial.verdict = "no better"
    elif len(ratios) >= LEAST_PAIRS:
        if trial.low > LEAST_GAIN:
            trial.verdict = "better"
        elif trial.ratio < 1 or len(ratios) == MOST_PAIRS:
            trial.verdict = "no better"
