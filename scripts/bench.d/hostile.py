"""`./scripts/bench hostile`: what 50 good clients notice of 150 hostile ones.

The good ones ask at their own times, whether or not they have their answers, first alone and then
among the others. Keys are needed; part of the hostile ones have a stolen key of a guest, who may
ask 120 times a minute and for four answers at once. Each of
their processes has an address of its own, the lowest priority, and attempts at a bounded rate, for
the clients share the processor with the daemon here, which they would not elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from appliance import Appliance, default_model, serving
from load import Stream, stream
from rich.console import Console
from rich.table import Table

GOOD = 50
HOSTILE = {
    "slow_headers": 30,
    "slow_body": 20,
    "huge_body": 15,
    "huge_body_of_nobody": 15,
    "bad_key": 40,
    "garbage": 20,
    "slow_reader": 10,
}
PROCESSES = 3
TOKENS = 16
QUESTION = "What should be looked at on machine {} after {} hours?"


@dataclass
class Phase:
    """What the good clients saw, in seconds, and what the daemon held at most, in MB."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    memory: int = 0


async def ask(phase: Phase, port: int, key: str, question: str) -> None:
    began, result = time.perf_counter(), Stream()
    try:
        await asyncio.wait_for(stream(port, question, TOKENS, result, key=key), 60)
    except (OSError, RuntimeError, asyncio.TimeoutError) as error:
        phase.failures[str(error)[:60] or type(error).__name__] += 1
        return
    phase.first.append(result.pieces[0] - began)
    phase.whole.append(time.perf_counter() - began)


async def good_client(phase: Phase, port: int, key: str, seconds: float, every: float) -> None:
    """Asks about every so many seconds, at random."""
    asked, at = [], random.random() * every
    began = time.monotonic()
    while at < seconds:
        await asyncio.sleep(began + at - time.monotonic())
        question = QUESTION.format(random.randrange(1000), random.randrange(1000))
        asked.append(asyncio.create_task(ask(phase, port, key, question)))
        at += random.uniform(0.5, 1.5) * every
    await asyncio.gather(*asked)


async def run_phase(appliance: Appliance, key: str, seconds: float, every: float) -> Phase:
    phase = Phase()

    async def watch() -> None:
        while True:
            phase.memory = max(phase.memory, appliance.memory_mb()[0])
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(
        *(good_client(phase, appliance.port, key, seconds, every) for _ in range(GOOD))
    )
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return phase


def start_attackers(port: int, key: str, seconds: float) -> list[subprocess.Popen[bytes]]:
    program = str(Path(__file__).with_name("attackers.py"))
    attackers = []
    for number in range(PROCESSES):
        share = [
            f"{kind}={count // PROCESSES + (number < count % PROCESSES)}"
            for kind, count in HOSTILE.items()
        ]
        arguments = [str(port), f"127.0.0.{2 + number}", str(seconds), key, *share]
        attackers.append(
            subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE)
        )
    return attackers


@contextlib.asynccontextmanager
async def attacked(port: int, key: str, seconds: float) -> AsyncIterator[Counter[str]]:
    """Filled with what the hostile ones were answered, when they have ended."""
    answers: Counter[str] = Counter()
    attackers = start_attackers(port, key, seconds)
    try:
        await asyncio.sleep(2)
        yield answers
        for attacker in attackers:
            told, _ = await asyncio.to_thread(attacker.communicate)
            for kind, found in json.loads(told).items():
                answers.update({f"{kind}: {status}": count for status, count in found.items()})
    finally:
        for attacker in attackers:
            attacker.kill()


def new_key(appliance: Appliance, name: str, *options: str) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "edge", "keys", "add", name, "--json", *options],
        env={**os.environ, "EDGE_STATE_DIR": str(appliance.state)},
        capture_output=True,
        check=True,
    )
    return str(json.loads(made.stdout)["key"])


async def measure(
    appliance: Appliance, seconds: float, every: float
) -> tuple[Phase, Phase, Counter[str], dict[str, Any]]:
    good = new_key(appliance, "good")
    limits = ["--requests-per-minute", "120", "--concurrent", "4"]
    guest, boss = new_key(appliance, "guest", *limits), new_key(appliance, "boss", "--admin")
    await asyncio.sleep(1)  # a running daemon sees them within half a second
    await run_phase(appliance, good, min(5.0, seconds), every)
    alone = await run_phase(appliance, good, seconds, every)
    async with attacked(appliance.port, guest, seconds + 4) as answers:
        among = await run_phase(appliance, good, seconds, every)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{appliance.port}") as http:
        told = await http.get("/admin/v1/status", headers={"Authorization": f"Bearer {boss}"})
    return alone, among, answers, told.json()["limits"]


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def show(console: Console, alone: Phase, among: Phase, ceiling_mb: int) -> None:
    table = Table(
        title=f"{GOOD} good clients, alone and among {sum(HOSTILE.values())} hostile ones"
    )
    table.add_column("")
    for name in ("alone", "among them", "times"):
        table.add_column(name, justify="right")
    for what in ("first", "whole"):
        for part in (0.5, 0.99):
            one, other = (percentile(getattr(phase, what), part) for phase in (alone, among))
            label = f"{'first token' if what == 'first' else 'whole answer'}, p{100 * part:.0f}, s"
            table.add_row(label, f"{one:.2f}", f"{other:.2f}", f"{other / one:.2f}")
    table.add_row("answers", str(len(alone.whole)), str(len(among.whole)), "")
    failed = [str(sum(phase.failures.values())) for phase in (alone, among)]
    table.add_row("failures", *failed, "")
    table.add_row(
        f"daemon's memory of {ceiling_mb} MB, MB", str(alone.memory), str(among.memory), ""
    )
    console.print(table)
    for phase in (alone, among):
        for failure, count in phase.failures.items():
            console.print(f"{count} × {failure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each of the two phases")
    parser.add_argument("--every", type=float, default=20, help="seconds between two of a client")
    options = parser.parse_args()
    console = Console(width=110)
    with serving(default_model(), auth__required="true", engine__slots=16) as appliance:
        found = asyncio.run(measure(appliance, options.seconds, options.every))
    alone, among, answers, limits = found
    show(console, alone, among, limits["memory"]["limit_bytes"] // 2**20)
    hostile = Table(title="what the hostile ones were answered")
    hostile.add_column("kind")
    hostile.add_column("answers, by status")
    for kind in HOSTILE:
        own = {name: n for name, n in sorted(answers.items()) if name.startswith(f"{kind}: ")}
        said = ", ".join(f"{name.partition(': ')[2]}: {count}" for name, count in own.items())
        hostile.add_row(f"{kind} ({HOSTILE[kind]})", said or "-")
    console.print(hostile)


if __name__ == "__main__":
    main()
