"""Which settings are the fastest: one key after the other, each value against the best so far.

A value that changes answers has to keep to a bound, too. The search knows no worker and no clock
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edge.errors import EdgeError
from edge.tuning.candidate import Candidate, Figures
from edge.tuning.trial import Stopwatch, Trial, compare

LEAST_AGREEMENT = 0.97
"""Part of the tokens, chosen at temperature 0, that have to be those of f16 and of the original
weights, for a change that is proposed by itself."""


class Lab(Stopwatch, Protocol):
    """Where candidates are measured, and what they say is compared."""

    async def agreement(self, candidate: Candidate) -> float:
        """Part of the tokens at temperature 0 that are those of f16 and the original weights."""
        ...

    async def keep(self, *candidates: Candidate) -> None:
        """Give back what all others hold."""
        ...


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
        try:
            rounds = await compare(
                self.lab, trial, best, candidate, in_time=lambda: self._now() < until
            )
            if not self.changed:
                self.base_rounds += rounds
            if trial.verdict == "better" and trial.key in ("kv_type", "weights"):
                # The one with the right tokens may have to be loaded beside it.
                await self.lab.keep(candidate)
                trial.agreement = await self.lab.agreement(candidate)
                if trial.agreement < LEAST_AGREEMENT:
                    trial.verdict = "changes answers"
        except EdgeError as error:
            trial.verdict, trial.error = "fails", error.message
