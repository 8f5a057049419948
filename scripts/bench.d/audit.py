"""`./scripts/bench audit`: what the audit log costs.

What `note` takes of the event loop while the thread writes, how many events a second the disk
takes, how fast `edge audit verify` reads; and what clients of the daemon wait with the log and
without it, in turns, for an answer out of the cache, which hides nothing behind a model.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from appliance import default_model, serving
from rich.console import Console
from rich.table import Table

from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.audit.folder import Folder
from edge.audit.verify import verify
from edge.config.keeping import Audit as Settings
from edge.metrics import Metrics

EVENTS = 100_000
GROUP = 500
"""Events noted in a row, before the loop turns and the thread writes."""

ROUNDS, ASKED = 10, 100
BODY = {"messages": [{"role": "user", "content": "What is a lathe?"}], "temperature": 0}


async def alone(folder: Folder, count: int) -> None:
    console, metrics = Console(), Metrics()
    audit = Audit(folder, Settings(), metrics)
    audit.open()
    event = Event(what="chat", who="press-07", origin="10.20.0.7", door="http", id="x" * 41)
    times = []
    started = time.perf_counter()
    for number in range(count):
        began = time.perf_counter()
        audit.note(event)
        times.append(1e6 * (time.perf_counter() - began))
        if number % GROUP == 0:
            await asyncio.to_thread(until, metrics, number - GROUP)
    await audit.stop()
    seconds = time.perf_counter() - started
    times.sort()
    console.print(
        f"note: {times[count // 2]:.1f} µs at the median, {times[count * 99 // 100]:.1f} at p99; "
        f"{count / seconds:,.0f} events/s to the disk"
    )
    began = time.perf_counter()
    verdict = verify(folder, folder.public_key())
    assert verdict.intact
    seconds = time.perf_counter() - began
    size = sum(file.bytes for file in folder.files())
    console.print(
        f"verify: {verdict.lines / seconds:,.0f} lines/s, {size / seconds / 1e6:.0f} MB/s; "
        f"{size / verdict.lines:.0f} bytes a line"
    )


def until(metrics: Metrics, count: int) -> None:
    """So many are written."""
    while (metrics.registry.get_sample_value("edge_audit_events_total") or 0.0) < count:
        time.sleep(0.001)


def over_http() -> Table:
    """Milliseconds of one client, with the log and without it by turns."""
    model, times = default_model(), {"with": [0.0], "without": [0.0]}
    on: dict[str, object] = {"cache__enabled": True, "engine__slots": 4}
    with (
        serving(model, **on) as with_log,
        serving(model, **on, audit__enabled=False) as without,
    ):
        clients = {
            name: httpx.Client(base_url=f"http://127.0.0.1:{one.port}", timeout=120)
            for name, one in (("with", with_log), ("without", without))
        }
        for client in clients.values():
            client.post("/v1/chat/completions", json=BODY).raise_for_status()
        for _ in range(ROUNDS):
            for name, client in clients.items():
                for _ in range(ASKED):
                    began = time.perf_counter()
                    client.post("/v1/chat/completions", json=BODY)
                    times[name].append(1000 * (time.perf_counter() - began))
    table = Table("audit log", "p50 ms", "p99 ms", title="an answer out of the cache")
    for name, some in times.items():
        ranked = sorted(some)
        table.add_row(
            name, f"{statistics.median(some):.2f}", f"{ranked[len(some) * 99 // 100]:.2f}"
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/bench audit", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the log is put, for a while")
    parser.add_argument("--events", type=int, default=EVENTS, help="how many are noted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        asyncio.run(alone(Folder(Path(name)), options.events))
    Console().print(over_http())
