"""The measurements as a table with remarks for people, and as an object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from edge.cli import output
from edge.cli.load import figures
from edge.cli.load.figures import Figures, Spread
from edge.cli.load.runner import Run
from edge.cli.load.workloads import WORKLOADS


class Report(msgspec.Struct):
    """All that a benchmark has found. edge: version of this project's daemon, None for others.

    answer_cache: `unknown` is that of a server which cannot be told to do without. warm_up: why
    the questions before the measurement failed, by number of the run.
    """

    url: str
    model: str | None
    edge: str | None
    answer_cache: str
    workload: str
    seed: int
    runs: list[Run] = []
    warm_up: dict[int, str] = {}
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        return any(answer.error is not None for run in self.runs for answer in run.answers)

    @property
    def measured(self) -> list[Run]:
        return [run for run in self.runs if run.answers]


def facts(report: Report) -> dict[str, Any]:
    """Everything: the figures of each run, and each request of it with the times of its pieces."""
    head = {
        name: getattr(report, name)
        for name in ("url", "model", "edge", "answer_cache", "workload", "seed", "interrupted")
    }
    runs = [
        {
            **{name: getattr(run, name) for name in ("clients", "rate", "began", "seconds")},
            "interrupted": run.interrupted,
            "figures": figures.of_run(run),
            "groups": figures.of_groups(run),
            "requests": run.answers,
        }
        for run in report.runs
    ]
    return {**head, "ok": not report.failed, "notes": notes(report), "runs": runs}


def head(report: Report) -> str:
    server = f"edge {report.edge}" if report.edge else "server not known as edge"
    return output.harmless(
        f"{report.workload}: {WORKLOADS[report.workload].about}\n"
        f"{report.url}, {server}, model {report.model or 'not named'}, "
        f"answer cache {report.answer_cache}, seed {report.seed}"
    )


def table(report: Report) -> Table:
    """One line for each load; where a workload has several kinds of question, one for each too."""
    structured = any(figures.of_run(run).valid is not None for run in report.measured)
    found = output.columns(
        *("CLIENTS" if report.runs and report.runs[0].rate is None else "PER SECOND", "OK"),
        *("FAILED", "OUT\ntok/s", "PROMPT\ntok/s", "CACHED"),
        *("FIRST TOKEN s\np50 / p95 / p99", "INTER-TOKEN\np50 / p99 ms"),
        "LATENCY s\np50 / p95 / p99",
        *(["VALID"] if structured else []),
    )
    found.padding = (0, 2, 0, 0)
    for column in found.columns:
        column.overflow = "fold"  # on a narrow terminal no digit may be lost
    for run in report.measured:
        name = f"{run.rate:g}" if run.rate is not None else str(run.clients)
        found.add_row(*_cells(name, figures.of_run(run), structured))
        groups = figures.of_groups(run)
        if len(groups) > 1:
            for group, some in groups.items():
                found.add_row(*_cells(f"  {group}", some, structured))
    return found


def _cells(name: str, some: Figures, structured: bool) -> list[Text]:
    failed = sum(some.failed.values())
    texts = [
        f"{some.tokens_per_second:.1f}",
        _number(some.prompt_tokens_per_second, "{:.1f}"),
        _number(some.cached_share, "{:.0%}"),
        _triple(some.first_token),
        _pair(some.inter_token),
        _triple(some.latency),
        *([f"{some.valid or 0} of {some.ok}"] if structured else []),
    ]
    red = "bold red" if failed else ""
    return [Text(name), Text(str(some.ok)), Text(str(failed), style=red), *map(Text, texts)]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _triple(spread: Spread) -> str:
    if spread.p50 is None:
        return "-"
    return " / ".join(_number(value, "{:.2f}") for value in (spread.p50, spread.p95, spread.p99))


def _pair(spread: Spread) -> str:
    if spread.p50 is None or spread.p99 is None:
        return "-"
    return f"{1000 * spread.p50:.1f} / {1000 * spread.p99:.1f}"


def notes(report: Report) -> list[str]:
    """What has to be known to read the figures."""
    found = [f"the warm-up of run {number} failed: {why}" for number, why in report.warm_up.items()]
    found += _failures(report)
    all_figures = [figures.of_run(run) for run in report.measured]
    if any(some.counted_by in ("pieces", "both") for some in all_figures):
        found.append(
            "no usage came with some answers: their tokens are counted by pieces of text, and "
            "their prompts are not counted"
        )
    if any(some.streamed < some.ok for some in all_figures):
        found.append("the server does not stream: there are no times of tokens")
    if _coalesced(report.measured):
        found.append("several tokens come in a piece: inter-token is the time between pieces")
    if report.workload == "mixed" and report.edge is None:
        found.append("the server was not told of the priorities: only edge knows them")
    if report.edge is None and report.workload != "repeat":
        found.append("a cache of whole answers, if the server has one, was not switched off")
    if report.interrupted:
        found.append("interrupted: questions that had no whole answer yet are not counted")
    return [output.harmless(note) for note in found]


def _failures(report: Report) -> list[str]:
    """Each error code with how often it came, and one message as an example."""
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    for run in report.runs:
        for answer in run.answers:
            if answer.error is not None:
                counts[answer.error] = counts.get(answer.error, 0) + 1
                examples.setdefault(answer.error, (answer.message or "")[:200])
    return [f"failed: {count} {code}: {examples[code]}" for code, count in counts.items()]


def _coalesced(runs: Sequence[Run]) -> bool:
    whole = [
        answer
        for run in runs
        for answer in run.answers
        if answer.error is None and answer.streamed and answer.completion_tokens
    ]
    pieces = sum(len(answer.pieces) for answer in whole)
    # A token without text, such as half of a character, makes no piece: a few are usual.
    return pieces < 0.7 * sum(answer.completion_tokens or 0 for answer in whole)
