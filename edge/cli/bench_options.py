"""Options of `edge bench` that say what is asked of the server, as the one plan that they make."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import click
import msgspec

from edge.cli.load.runner import Run
from edge.cli.load.workloads import WORKLOADS

LEAST_REQUESTS = 16
"""Requests of a run if none are asked for; at least four for each client."""

CLIENTS = [1, 4, 8, 16]


class Plan(msgspec.Struct):
    """What was asked for. requests, tokens: None for those of the load and the workload."""

    workload: str
    runs: list[Run]
    requests: int | None
    tokens: int | None
    seed: int

    def requests_of(self, run: Run) -> int:
        return self.requests or max(LEAST_REQUESTS, 4 * (run.clients or 0))


def _numbers(ctx: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    return None if value is None else [_checked(text, int) for text in value.split(",")]


def _rates(ctx: click.Context, option: click.Parameter, value: str | None) -> list[float] | None:
    return None if value is None else [_checked(text, float) for text in value.split(",")]


def _checked(text: str, kind: type[Any]) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if not 0 < number <= 10_000:
        raise click.BadParameter(f"{text!r} is no number above 0 and up to 10000")
    return number


def plan(command: Callable[..., int]) -> Callable[..., int]:
    """What is asked, as `plan`."""

    @click.option(
        "--workload",
        metavar="NAME",
        type=click.Choice(list(WORKLOADS)),
        default="chat",
        help="chat, prefix (one long system prompt), apps (twelve of them), json (a schema), "
        "repeat (four questions again and again), extract (a text to repeat) or mixed (two "
        "priorities); chat if left out.",
    )
    @click.option(
        "--clients",
        metavar="N,…",
        callback=_numbers,
        help="Numbers of clients that ask one question after the other; 1,4,8,16 if left out.",
    )
    @click.option(
        "--rate",
        "rates",
        metavar="R,…",
        callback=_rates,
        help="Instead of clients: questions per second, at random times, whatever the answers do.",
    )
    @click.option(
        "--requests",
        metavar="N",
        type=click.IntRange(1, 1_000_000),
        help="Questions of each run; 4 for each client, at least 16, if left out.",
    )
    @click.option(
        "--tokens",
        metavar="N",
        type=click.IntRange(1),
        help="Longest answer; by the workload if left out.",
    )
    @click.option(
        "--seed",
        metavar="N",
        type=int,
        help="Same seed, same questions. A server that has seen them may have kept them, so by "
        "default they are new each time.",
    )
    @functools.wraps(command)
    def gathered(
        workload: str,
        clients: list[int] | None,
        rates: list[float] | None,
        requests: int | None,
        tokens: int | None,
        seed: int | None,
        **others: Any,
    ) -> int:
        runs = _runs(clients, rates)
        if requests and requests < max(run.clients or 0 for run in runs):
            raise click.UsageError("--requests is below the largest number of clients")
        chosen = random.randrange(10**6) if seed is None else seed
        return command(plan=Plan(workload, runs, requests, tokens, chosen), **others)

    return gathered


def _runs(clients: list[int] | None, rates: list[float] | None) -> list[Run]:
    if clients and rates:
        raise click.UsageError("--clients and --rate exclude each other")
    if rates:
        return [Run(None, rate) for rate in rates]
    return [Run(count, None) for count in clients or CLIENTS]
