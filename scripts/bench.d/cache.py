"""`./scripts/bench cache`: what it costs to find and to keep an answer among a million.

The file of answers alone, filled with small ones; then it is full, and every further one drives
out others. And what a client of the daemon waits for an answer out of it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import httpx
from appliance import default_model, serving
from rich.console import Console
from rich.table import Table

from edge.store.answers import Answers

ANSWERS = 1_000_000
BODY = 150
ENTRY = 300
"""Bytes of the file for each answer, more than it takes, so that a million fit."""

CALLS = 20_000
HTTP_CALLS = 500
WRITERS = 256


def key(number: int) -> bytes:
    return sha256(str(number).encode()).digest()


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


async def fill(answers: Answers, first: int, count: int) -> float:
    """Seconds for so many puts, many at a time."""

    async def write(start: int) -> None:
        for number in range(first + start, first + count, WRITERS):
            await answers.put(key(number), random.randbytes(BODY))

    started = time.perf_counter()
    await asyncio.gather(*(write(start) for start in range(WRITERS)))
    return time.perf_counter() - started


async def one_by_one(answers: Answers, first: int, count: int) -> dict[str, list[float]]:
    """Milliseconds of hits, misses and puts, in turns."""
    times: dict[str, list[float]] = {"get, found": [], "get, not found": [], "put": []}
    for number in range(count, count + CALLS):
        for name, call in (
            ("get, found", answers.get(key(random.randrange(first, count)), 0)),
            ("get, not found", answers.get(key(-number), 0)),
            ("put", answers.put(key(number), random.randbytes(BODY))),
        ):
            started = time.perf_counter()
            await call
            times[name].append(1000 * (time.perf_counter() - started))
    return times


def show(title: str, times: dict[str, list[float]], caption: str) -> Table:
    table = Table(title=title, caption=caption)
    for column in ("", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="right")
    for name, some in times.items():
        row = (statistics.median(some), percentile(some, 0.99), max(some))
        table.add_row(name, *(f"{value:.2f}" for value in row))
    return table


def sizes(path: Path, bound: int) -> str:
    size, log = path.stat().st_size, Path(f"{path}-wal").stat().st_size
    return f"the file has {size / 1e6:.1f} MB of {bound / 1e6:.1f}, its log {log / 1e6:.1f}"


async def measure(path: Path, count: int) -> None:
    console, bound = Console(), count * ENTRY
    async with Answers(path, bound) as answers:
        seconds = await fill(answers, 0, count)
        times = await one_by_one(answers, 0, count)
        caption = f"{count / seconds:,.0f} puts/s while it was filled; {sizes(path, bound)}"
        console.print(show(f"{count:,} answers", times, caption))
        # Beyond the bound by far, whatever an answer really takes.
        first = 2 * count
        await fill(answers, first, count // 2)
        last = first + count // 2
        times = await one_by_one(answers, last - count // 4, last)
        console.print(show("full: what comes in drives others out", times, sizes(path, bound)))
    started = time.perf_counter()
    async with Answers(path, bound):
        opening = time.perf_counter() - started
    console.print(f"examined and opened again in {opening:.2f} s")


def over_http() -> Table:
    """The same question again and again, by one client."""
    body = {"messages": [{"role": "user", "content": "What is a lathe?"}], "temperature": 0}
    times: dict[str, list[float]] = {"whole": [], "stream": []}
    with (
        serving(default_model(), engine__slots=4, cache__enabled=True) as appliance,
        httpx.Client(base_url=f"http://127.0.0.1:{appliance.port}", timeout=120) as client,
    ):
        client.post("/v1/chat/completions", json=body).raise_for_status()
        seconds, count = served(client)
        for _ in range(HTTP_CALLS):
            for kind, some in times.items():
                asked = {**body, "stream": kind == "stream"}
                started = time.perf_counter()
                answer = client.post("/v1/chat/completions", json=asked)
                some.append(1000 * (time.perf_counter() - started))
                assert answer.headers["x-edge-route"] == "cache"
        later, more = served(client)
    caption = f"at the server {1000 * (later - seconds) / (more - count):.2f} ms each, on average"
    return show("a kept answer over HTTP, as its client measures it", times, caption)


def served(client: httpx.Client) -> tuple[float, float]:
    """Seconds that the server has spent on requests, from first byte to last, and how many."""
    lines = [one for one in client.get("/metrics").text.splitlines() if one[0] != "#"]
    values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    return values["edge_request_seconds_sum"], values["edge_request_seconds_count"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/bench cache", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the file is put, for a while")
    parser.add_argument("--answers", type=int, default=ANSWERS, help="how many there are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        asyncio.run(measure(Path(name) / "cache.sqlite", options.answers))
    Console().print(over_http())
