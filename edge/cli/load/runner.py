"""Clients that ask: a fixed number of them one question after the other, or arrivals at a rate.

In the open loop nobody waits for answers: a server that is slow gets as many questions as a fast
one, and what it answers late is late by as much as a user would have waited.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import msgspec

from edge.cli.load.answer import Answer, Clock
from edge.cli.load.workloads import Question


class Asked(Protocol):
    """The server, as far as the clients know it."""

    async def ask(self, question: Question, intended: float, clock: Clock) -> Answer: ...


class Run(msgspec.Struct):
    """One load and what came of it, in the order in which the answers ended.

    clients: in the closed loop; rate: arrivals a second in the open one; the other is None.
    began: seconds since 1970. seconds: until the last answer.
    """

    clients: int | None
    rate: float | None
    began: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    answers: list[Answer] = []


async def carry_out(
    run: Run, server: Asked, questions: Sequence[Question], source: random.Random
) -> None:
    """Ask everything. Cancelled, it keeps what has been answered and forgets the rest."""
    run.began, origin = time.time(), time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - origin

    try:
        if run.rate is not None:
            due = arrivals(run.rate, len(questions), source)
            await _open_loop(run, server, questions, due, clock)
        else:
            await _closed_loop(run, server, questions, clock)
    except asyncio.CancelledError:
        run.interrupted = True
        raise
    finally:
        run.seconds = clock()


def arrivals(rate: float, count: int, source: random.Random) -> list[float]:
    """When `count` questions are due, in seconds from the first: a Poisson process."""
    gaps = (source.expovariate(rate) for _ in range(count - 1))
    return list(accumulate(gaps, initial=0.0))


async def _closed_loop(
    run: Run, server: Asked, questions: Sequence[Question], clock: Clock
) -> None:
    waiting = iter(questions)

    async def client() -> None:
        for question in waiting:
            run.answers.append(await server.ask(question, clock(), clock))

    await _all([asyncio.ensure_future(client()) for _ in range(run.clients or 1)])


async def _open_loop(
    run: Run, server: Asked, questions: Sequence[Question], due: Sequence[float], clock: Clock
) -> None:
    async def client(question: Question, intended: float) -> None:
        run.answers.append(await server.ask(question, intended, clock))

    asked: list[asyncio.Future[None]] = []
    try:
        for question, intended in zip(questions, due, strict=True):
            await asyncio.sleep(max(0.0, intended - clock()))
            asked.append(asyncio.ensure_future(client(question, intended)))
    except asyncio.CancelledError:
        for one in asked:
            one.cancel()
        raise
    finally:
        await _all(asked)


async def _all(clients: Sequence[asyncio.Future[None]]) -> None:
    """Wait for all; none is left behind, however it ends."""
    try:
        await asyncio.gather(*clients)
    finally:
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
