"""`./scripts/bench failover`: what comes of every failure, and what it costs.

The scenarios are those of the tests: each fault at a primary that stands alone, with another
cloud or with the model here behind it. Then what a route adds to the model's own time, and how
fast a request fails over once the breaker knows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path

from daemon_process import MODEL, DaemonProcess, poll, running
from fake_cloud import FakeCloud
from rich.console import Console
from rich.table import Table
from scenarios import ALONE, CLOUD, LOCAL, SCENARIOS, Outcome, Scenario, ask, yaml

from edge.config.place import state_dir
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

PAIRS = 40


def baseline(daemon: DaemonProcess, route: str) -> float:
    """Seconds of the same request where nothing fails."""
    fields = {"max_tokens": 20} if route == LOCAL else {}
    return statistics.median(ask(daemon, route, stream=True, **fields).seconds for _ in range(5))


def described(scenario: Scenario, outcome: Outcome) -> str:
    wrong = scenario.wrong(outcome)
    if wrong is not None:
        return f"[red]WRONG: {wrong}[/red]"
    if outcome.error is not None:
        where = f"after {len(outcome.text.split())} words" if outcome.text else outcome.status
        return f"{outcome.error['code']} {where}"
    attempts = int((outcome.headers or {}).get("x-edge-attempts", 1))
    return "whole answer" + (f", {attempts} attempts" if attempts > 1 else "")


def scenarios(daemon: DaemonProcess, primary: FakeCloud) -> Table:
    usual = {route: baseline(daemon, route) for route in (ALONE, CLOUD, LOCAL)}
    table = Table(title="failover: limits of 0.5 s connect, 0.8 s first token, 0.6 s stall")
    for column in ("fault at the primary", "behind it", "asked for", "outcome"):
        table.add_column(column)
    table.add_column("added s", justify="right")
    for scenario in SCENARIOS:
        outcome = scenario.run(daemon, primary)
        added = outcome.seconds - usual[scenario.route]
        behind = {ALONE: "nobody", CLOUD: "a cloud", LOCAL: "the model here"}[scenario.route]
        asked = "stream" if scenario.stream else "whole"
        row = (scenario.fault.title, behind, asked, described(scenario, outcome))
        table.add_row(*row, f"{max(added, 0.0):.2f}")
    return table


def milliseconds(daemon: DaemonProcess, model: str) -> float:
    return 1000 * ask(daemon, model, stream=False, max_tokens=1).seconds


def costs(daemon: DaemonProcess, primary: FakeCloud) -> Table:
    """In turns, so that both see the same machine."""
    primary.stop()
    for _ in range(100):
        last = daemon.post(
            "/v1/chat/completions",
            {"model": CLOUD, "messages": [{"role": "user", "content": "count"}]},
        ).json()
    pairs = [(milliseconds(daemon, MODEL), milliseconds(daemon, LOCAL)) for _ in range(PAIRS)]
    primary.start()
    table = Table(title="what a dead primary costs once its breaker is open, ms")
    table.add_column("")
    table.add_column("median", justify="right")
    seconds = last["edge"]["attempts"][0]["seconds"]
    table.add_row("passing over it, the 100th request", f"{1000 * seconds:.2f}")
    table.add_row(
        "one token of the model here, asked for by its name", _median(p[0] for p in pairs)
    )
    table.add_row("the same behind the dead primary", _median(p[1] for p in pairs))
    table.add_row("difference in the same pair", _median(b - a for a, b in pairs))
    return table


def _median(values: Iterable[float]) -> str:
    return f"{statistics.median(values):.2f}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    store = ModelStore(state_dir() / "models")
    present = store.find(MODEL)
    model = present.path if present else pull(store, load_catalog()[MODEL]).path
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder, FakeCloud() as primary, FakeCloud() as backup:
        with running(Path(folder) / "a", model, yaml=yaml(primary, backup)) as daemon:
            console.print(scenarios(daemon, primary))
        guarded = yaml(primary, backup, open_seconds=30)
        with running(Path(folder) / "b", model, yaml=guarded) as daemon:
            poll(lambda: daemon.status()["state"] == "ready", "the model")
            console.print(costs(daemon, primary))


if __name__ == "__main__":
    main()
