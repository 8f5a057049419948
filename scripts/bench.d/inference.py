"""`./scripts/bench inference`: batching against bare onnxruntime; a chat beside ONNX at full speed.

MiniLM (int8), rows of 32 tokens. First as many clients as asked for, each with one row at a time,
against onnxruntime called directly with the best batch. Then one chat stream, alone and beside the
same clients, with ONNX workers of several nice values. All take turns within each round, so that a
machine that slows down slows all of them, and each is told as a ratio to its like.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from appliance import default_model
from onnx_models import MINILM_INT8, fetched, install
from onnx_serving import inference, serving, tensors
from rich.console import Console
from rich.table import Table

from edge.host import cpu
from edge.inference.models import OnnxModels
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner
from edge.types import (
    ChatPrompt,
    Delta,
    EngineSettings,
    Event,
    Finished,
    Generation,
    Message,
    Sampling,
)

WIDTH = 32
"""Tokens of a row."""

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def rows(count: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(1000, 20000, (count, WIDTH), dtype=np.int64)
    ones = np.ones_like(ids)
    return {"input_ids": ids, "attention_mask": ones, "token_type_ids": ones * 0}


class Bare:
    """onnxruntime without anything before it."""

    def __init__(self, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(fetched(MINILM_INT8, "model.onnx"))
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = {batch: rows(batch) for batch in BATCHES}

    def rate(self, batch: int, seconds: float) -> float:
        """Rows per second."""
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            self._session.run(None, self._inputs[batch])
            count += batch
        return count / (time.perf_counter() - began)


class Clients:
    """So many, each of which asks for its next row when it has the one before."""

    def __init__(self, models: OnnxModels, count: int) -> None:
        self._models = models
        self._count = count
        self.answered = 0

    async def _one(self) -> None:
        work = tensors(**rows(1))
        while True:
            await self._models.infer(inference("minilm", work))
            self.answered += 1

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._one()) for _ in range(self._count)]
        await asyncio.sleep(0.5)  # until all are in step
        self.answered, began = 0, time.perf_counter()
        try:
            yield
            self.rate = self.answered / (time.perf_counter() - began)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def stream(runner: ModelRunner, tokens: int) -> list[float]:
    """Seconds between the tokens of one chat."""
    times: list[float] = []
    done = asyncio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Delta):
            times.append(time.perf_counter())
        elif isinstance(event, Finished):
            done.set()

    prompt = ChatPrompt([Message("user", f"{time.time()} Tell a long story of a lighthouse.")])
    sampling = Sampling(temperature=0)
    runner.submit(Generation("chat", prompt, sampling, tokens, ignore_eos=True), hear)
    await done.wait()
    return [later - earlier for earlier, later in pairwise(times[1:])]


@contextlib.asynccontextmanager
async def chat_model(threads: int) -> AsyncIterator[ModelRunner]:
    settings = EngineSettings("cpu", threads, None, 4, 1024, "f16", 512, 0, draft="none")
    runner = ModelRunner("chat", default_model(), settings, Metrics())
    task = asyncio.create_task(runner.run())
    await runner.loaded.wait()
    try:
        yield runner
    finally:
        await runner.stop()
        await task


def p99(gaps: list[float]) -> float:
    return float(np.percentile(gaps, 99))


async def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench inference", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--nice", default="0,5,10,13,16,19", help="values to compare, with commas")
    parser.add_argument("--tokens", type=int, default=128, help="of each chat")
    options = parser.parse_args()
    threads = cpu.usable_cores()
    values = [int(value) for value in options.nice.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), "minilm", fetched(MINILM_INT8, "model.onnx"))
        async with contextlib.AsyncExitStack() as stack:
            clients = {}
            for nice in values:
                models = await stack.enter_async_context(
                    serving(Path(folder), nice=nice, threads=threads)
                )
                await models.facts("minilm")
                clients[nice] = Clients(models, options.clients)
            await throughput(Bare(threads), clients[values[0]], options.rounds)
            runner = await stack.enter_async_context(chat_model(threads))
            await beside(runner, clients, options.rounds, options.tokens)


async def throughput(bare: Bare, clients: Clients, rounds: int) -> None:
    direct: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    served = []
    for _ in range(rounds):
        for batch in BATCHES:
            direct[batch].append(bare.rate(batch, 0.5))
        async with clients.at_work():
            await asyncio.sleep(3)
        served.append(clients.rate)
    best = max(BATCHES, key=lambda batch: statistics.median(direct[batch]))
    table = Table(title="rows per second")
    for batch in BATCHES:
        table.add_row(f"bare, batches of {batch}", f"{statistics.median(direct[batch]):.0f}")
    ratio = statistics.median(a / b for a, b in zip(served, direct[best], strict=True))
    table.add_row("clients", f"{statistics.median(served):.0f}")
    table.add_row(f"clients to bare batches of {best}", f"{ratio:.2f}")
    Console().print(table)


async def beside(
    runner: ModelRunner, clients: dict[int, Clients], rounds: int, tokens: int
) -> None:
    await stream(runner, tokens)
    alone: list[list[float]] = []
    gaps: dict[int, list[list[float]]] = {nice: [] for nice in clients}
    rates: dict[int, list[float]] = {nice: [] for nice in clients}
    free: dict[int, list[float]] = {nice: [] for nice in clients}
    for _ in range(rounds):
        alone.append(await stream(runner, tokens))
        for nice, some in clients.items():
            async with some.at_work():
                gaps[nice].append(await stream(runner, tokens))
            rates[nice].append(some.rate)
            async with some.at_work():
                await asyncio.sleep(1.5)
            free[nice].append(max(some.rate, 1e-9))
    table = Table(title="a chat stream beside ONNX clients")
    for head in ("nice", "p50 ms", "p99 ms", "p99 to alone", "rows/s", "to without chat"):
        table.add_column(head, justify="right")
    flat = [gap for one in alone for gap in one]
    table.add_row("alone", f"{statistics.median(flat) * 1e3:.1f}", f"{p99(flat) * 1e3:.1f}")
    for nice in clients:
        mine = [gap for one in gaps[nice] for gap in one]
        ratio = statistics.median(p99(a) / p99(b) for a, b in zip(gaps[nice], alone, strict=True))
        share = statistics.median(a / b for a, b in zip(rates[nice], free[nice], strict=True))
        table.add_row(
            str(nice),
            f"{statistics.median(mine) * 1e3:.1f}",
            f"{p99(mine) * 1e3:.1f}",
            f"{ratio:.2f}",
            f"{statistics.median(rates[nice]):.0f}",
            f"{share:.2f}",
        )
    Console().print(table)


asyncio.run(main())
