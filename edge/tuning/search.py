"""Which settings are the fastest: one key after the other, each value against the best so far.

The two run in turns, so that a machine that slows down slows both, and only their ratio counts. A
value wins when it is faster beyond what the ratios themselves vary by. One that changes answers
has to keep to a bound, too. The search knows no worker and no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, log, sqrt
from statistics import mean, stdev
from typing import Any, Literal, Protocol

import msgspec

from edge.errors import EdgeError
from edge.tuning.candidate import Candidate, Figures, typical

LEAST_GAIN = 1.02
"""Faster by less is not worth a change of the configuration."""

LEAST_PAIRS, MOST_PAIRS = 3, 6
"""Rounds of each in turns: at least so many for a verdict, and more while that is open."""

HOPELESS = 0.5
"""A single pair is enough for one that is so slow."""

LEAST_AGREEMENT = 0.97
"""Part of the tokens, chosen at temperature 0, that have to be those of f16 and of the original
weights, for a change that is proposed by itself."""

STUDENT = {1: 31.8, 2: 6.96, 3: 4.54, 4: 3.75, 5: 3.36}
"""Quantiles of Student's t at 99 %, one-sided, by degrees of freedom: a dozen values are tested,
each several times, and no change of a configuration should be luck."""

Verdict = Literal["better", "no better", "changes answers", "out of time", "fails"]


class Lab(Protocol):
    """Where candidates are measured."""

    async def measure(self, candidate: Candidate) -> Figures:
        """One round. Raises `EdgeError` when the candidate does not load or dies."""
        ...

    async def agreement(self, candidate: Candidate) -> float:
        """Part of the tokens at temperature 0 that are those of f16 and the original weights."""
        ...

    async def keep(self, *candidates: Candidate) -> None:
        """Give back what all others hold."""
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


class Search:
    """`run` it; whatever ends it, `best`, `changed` and `trials` are what is known by then."""

    def __init__(self, lab: Lab, base: Candidate, now: Callable[[], float], seconds: float) -> None:
        self.lab = lab
        self.best = base
        self.changed: dict[str, Any] = {}
        self.trials: list[Trial] = []
        self.base_rounds: list[Figures] = []
        self._now = now
        self._end = now() + seconds

    async def run(
        self, choices: Mapping[str, Sequence[Any]], follow: Callable[[Trial], None]
    ) -> None:
        """Try all of them while there is time; `follow` hears of each that is over."""
        left = sum(len(values) for values in choices.values())
        for key, values in choices.items():
            winner: Trial | None = None
            before = self.best
            for value in values:
                # What one value leaves of its share goes to those after it.
                until = self._now() + (self._end - self._now()) / left
                left -= 1
                trial = Trial(key, value)
                self.trials.append(trial)
                candidate = before.varied(key, value)
                await self._try(trial, self.best, candidate, until)
                if trial.verdict == "better":
                    winner, self.best = trial, candidate
                follow(trial)
                await self.lab.keep(self.best)
            # Weights are a file that the user has to name, not a key of the engine.
            if winner is not None and key != "weights":
                self.changed[key] = winner.value

    async def _try(self, trial: Trial, best: Candidate, candidate: Candidate, until: float) -> None:
        ratios: list[float] = []
        rounds: list[Figures] = []
        try:
            while len(ratios) < MOST_PAIRS and self._now() < until:
                # Who goes second may profit from what the first warmed up: they alternate.
                pair = (best, candidate) if len(ratios) % 2 == 0 else (candidate, best)
                figures = {id(one): await self.lab.measure(one) for one in pair}
                ratios.append(figures[id(candidate)].score / figures[id(best)].score)
                rounds.append(figures[id(candidate)])
                if not self.changed:
                    self.base_rounds.append(figures[id(best)])
                _note(trial, ratios, rounds)
                if trial.verdict != "out of time":
                    break
            if trial.verdict == "better" and trial.key in ("kv_type", "weights"):
                # The one with the right tokens may have to be loaded beside it.
                await self.lab.keep(candidate)
                trial.agreement = await self.lab.agreement(candidate)
                if trial.agreement < LEAST_AGREEMENT:
                    trial.verdict = "changes answers"
        except EdgeError as error:
            trial.verdict, trial.error = "fails", error.message


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
