"""One run of `edge tune`: what is tried on this machine, and what came of it."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge.config.models import Engine
from edge.host import cpu, memory
from edge.runtime.settings import engine_settings
from edge.tuning.candidate import TUNED, Candidate, Figures, choices, typical
from edge.tuning.search import LEAST_AGREEMENT, Search
from edge.tuning.trial import Trial
from edge.tuning.workers import CROWD, Workers

ROUNDS = 70
"""Rounds that the budget is meant for: eleven values, three pairs each, fewer for the slow ones."""


class Findings(msgspec.Struct):
    """What is known, at whatever moment the run ended.

    base: figures of the settings in force. proposal: keys of `engine` to change.
    """

    model: str
    base: Figures | None = None
    trials: list[Trial] = []
    proposal: dict[str, Any] = {}

    def comment(self) -> list[str]:
        """Lines for the configuration: when, where, and what each value was worth."""
        today = datetime.date.today().isoformat()
        where = cpu.model() or "an unknown processor"
        lines = [f"{today}, {self.model} on {where}"]
        if self.base is not None:
            lines.append(f"before: {described(self.base)}")
        for trial in self.trials:
            if self.proposal.get(trial.key) == trial.value and trial.figures is not None:
                lines.append(
                    f"{trial.key} {trial.value}: {trial.ratio:.2f} times as fast"
                    f" ({trial.low:.2f} to {trial.high:.2f}): {described(trial.figures)}"
                )
        return lines

    def options(self) -> list[Trial]:
        """What is faster, and nobody should take without a thought: its answers are others."""
        return [
            trial
            for trial in self.trials
            if trial.verdict == "changes answers"
            or (trial.verdict == "better" and trial.key not in TUNED)
        ]


def described(figures: Figures) -> str:
    return (
        f"prompt {figures.prompt:.0f}, one stream {figures.single:.0f}, {CROWD} at once"
        f" {figures.crowd:.0f} tok/s, {figures.memory_bytes / 1e6:.0f} MB"
    )


async def survey(
    findings: Findings,
    path: Path,
    engine: Engine,
    seconds: float,
    weights: Path | None,
    follow: Callable[[str], None],
) -> None:
    """Fill in the findings as they come. weights: another file of the same model, to try as well.

    Raises `EdgeError` when the model does not load with the settings in force.
    """
    end = time.monotonic() + seconds
    cores = cpu.usable_cores()
    base = Candidate(path, engine_settings(engine, cores, memory.available_bytes() or 0))
    async with Workers(base) as workers:
        follow(f"loading {findings.model}")
        facts = await workers.facts(base)
        await workers.calibrate(base, seconds / ROUNDS)
        search = Search(workers, base, time.monotonic, end - time.monotonic())
        findings.trials, findings.proposal = search.trials, search.changed
        values = choices(base.settings, facts.slots, cores, len(os.sched_getaffinity(0)))
        if weights is not None:
            values["weights"] = [str(weights)]

        def over(trial: Trial) -> None:
            if search.base_rounds:
                findings.base = typical(search.base_rounds)
            follow(told(trial))

        await search.run(values, over)


def told(trial: Trial) -> str:
    """A trial in one line."""
    value = Path(trial.value).stem if trial.key == "weights" else trial.value
    line = f"{trial.key} {value}: {trial.verdict}"
    if trial.ratio is not None:
        line += f", {trial.ratio:.2f} times as fast"
    if trial.agreement is not None:
        line += f", {trial.agreement:.1%} of the tokens are the same"
        if trial.agreement < LEAST_AGREEMENT:
            line += f" and {LEAST_AGREEMENT:.0%} are asked for"
    return f"{line}: {trial.error}" if trial.error else line
