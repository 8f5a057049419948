"""What was measured, in numbers. Only whole answers count; failures are counted beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from edge.cli.load.answer import Answer
from edge.cli.load.runner import Run


class Spread(msgspec.Struct):
    """Percentiles of one quantity in seconds, by nearest rank; None where there is no value."""

    p50: float | None
    p95: float | None
    p99: float | None


class Figures(msgspec.Struct):
    """failed: by error code. tokens: of whole answers. counted_by: who counted them: the server's
    usage, or we by pieces of text, or each for some answers. prompt_tokens and cached_share: None
    where no usage came, or none that tells what was cached. first_token, latency: from when the
    question was due. inter_token: between pieces of text as they arrive. valid: structured answers
    that have the form that was asked for, None where none was.
    """

    ok: int
    failed: dict[str, int]
    streamed: int
    tokens: int
    tokens_per_second: float
    counted_by: Literal["usage", "pieces", "both", "nothing"]
    prompt_tokens: int | None
    prompt_tokens_per_second: float | None
    cached_share: float | None
    first_token: Spread
    inter_token: Spread
    latency: Spread
    valid: int | None


def of_run(run: Run) -> Figures:
    return _figures(run.answers, run.seconds)


def of_groups(run: Run) -> dict[str, Figures]:
    """The same for each kind of question that the workload has."""
    names = sorted({answer.group for answer in run.answers})
    return {
        name: _figures([one for one in run.answers if one.group == name], run.seconds)
        for name in names
    }


def _figures(answers: Sequence[Answer], seconds: float) -> Figures:
    whole = [answer for answer in answers if answer.error is None]
    by_usage = [answer for answer in whole if answer.completion_tokens is not None]
    tokens = sum(
        len(answer.pieces) if answer.completion_tokens is None else answer.completion_tokens
        for answer in whole
    )
    prompt = sum(answer.prompt_tokens or 0 for answer in by_usage)
    told = [answer for answer in by_usage if answer.cached_tokens is not None]
    of_told = sum(answer.prompt_tokens or 0 for answer in told)
    judged = [answer.valid for answer in whole if answer.valid is not None]
    firsts = (answer.first_token for answer in whole)
    return Figures(
        ok=len(whole),
        failed=dict(Counter(answer.error for answer in answers if answer.error is not None)),
        streamed=sum(answer.streamed for answer in whole),
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        counted_by=_counted_by(len(by_usage), len(whole)),
        prompt_tokens=prompt if by_usage else None,
        prompt_tokens_per_second=prompt / seconds if by_usage and seconds else None,
        cached_share=sum(answer.cached_tokens or 0 for answer in told) / of_told
        if of_told
        else None,
        first_token=_spread(first for first in firsts if first is not None),
        inter_token=_spread(gap for answer in whole for gap in answer.gaps),
        latency=_spread(answer.latency for answer in whole),
        valid=sum(judged) if judged else None,
    )


def _counted_by(by_usage: int, all_whole: int) -> Literal["usage", "pieces", "both", "nothing"]:
    if not all_whole:
        return "nothing"
    if by_usage == all_whole:
        return "usage"
    return "both" if by_usage else "pieces"


def _spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return Spread(*(percentile(ordered, part) for part in (0.5, 0.95, 0.99)))


def percentile(ordered: Sequence[float], part: float) -> float | None:
    """The smallest value that at least `part` of all do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
