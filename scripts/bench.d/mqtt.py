"""`./scripts/bench mqtt`: prompts a second that are on disk, and what MQTT adds to an answer.

A real broker, the real daemon, paho clients. While prompts are taken in, the model's worker is
stopped, so that the figure is the door's and the disk's and not the model's.
"""

from __future__ import annotations

import argparse
import queue
import signal
import socket
import sqlite3
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
from appliance import Appliance, serving
from broker import broker
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from rich.console import Console
from rich.table import Table

from edge.config.place import state_dir
from edge.config.tree import Config
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

DEVICE = "bench"
CHAT = f"edge/{DEVICE}/chat"
BODY = {
    "messages": [{"role": "user", "content": "Say hello."}],
    "temperature": 0,
    "max_tokens": 1,
}


def send_at_once(_client: object, _data: object, connection: Any) -> None:
    """Else a prompt soon after the PUBACK of the last reply waits for the broker's kernel."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Client:
    """A paho client with its own thread; replies to it are put into a queue."""

    def __init__(self, port: int, name: str) -> None:
        self.replies: queue.Queue[bytes] = queue.Queue()
        self.reply_to = f"edge/{DEVICE}/reply/{name}"
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.on_socket_open = send_at_once
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = lambda _c, _d, message: self.replies.put(bytes(message.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe(self.reply_to, 1)
        if not ready.wait(10):
            raise RuntimeError("the broker does not answer")

    def publish(self, number: object) -> None:
        """Returns when the broker has it."""
        body = msgspec.json.encode({**BODY, "id": str(number), "reply_to": self.reply_to})
        self.client.publish(CHAT, body, qos=1).wait_for_publish(60)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def kept(ledger: Path) -> int:
    """Jobs in the ledger, of whatever state."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        (count,) = connection.execute("SELECT sum(jobs) FROM totals").fetchone()
    connection.close()
    return int(count)


def syncs(appliance: Appliance) -> float:
    text = httpx.get(f"http://127.0.0.1:{appliance.port}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith("edge_ledger_syncs "))
    return float(line.split()[1])


def intake(port: int, appliance: Appliance, ledger: Path, publishers: int, total: int) -> list[str]:
    """A row: how fast `total` prompts of that many publishers come onto the disk."""
    clients = [Client(port, f"p{publishers}-{number}") for number in range(publishers)]

    def publish(client: Client, first: int) -> None:
        for number in range(first, total, publishers):
            client.publish(f"{publishers}-{number}")

    before, commits = kept(ledger), syncs(appliance)
    threads = [
        threading.Thread(target=publish, args=(client, first))
        for first, client in enumerate(clients)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    while kept(ledger) < before + total:
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    commits = syncs(appliance) - commits
    return [str(publishers), f"{total / seconds:,.0f}", f"{commits:,.0f}", f"{total / commits:.1f}"]


def intakes(port: int, appliance: Appliance, ledger: Path) -> Table:
    table = Table(title="prompts of QoS 1 taken in, each acknowledged after its sync")
    for column in ("publishers", "prompts/s", "syncs", "prompts per sync"):
        table.add_column(column, justify="right")
    (worker,) = psutil.Process(appliance.process.pid).children()
    worker.suspend()
    for publishers, total in ((1, 500), (16, 4_000), (128, 8_000)):
        table.add_row(*intake(port, appliance, ledger, publishers, total))
    worker.resume()
    return table


def round_trips(port: int, appliance: Appliance, runs: int) -> Table:
    """The same prompt in turns, by HTTP and by MQTT, one at a time and nothing else running."""
    table = Table(title="one prompt of one token, asked and answered")
    for column in ("door", "p50 ms", "p95 ms"):
        table.add_column(column, justify="right")
    client, url = Client(port, "round-trip"), f"http://127.0.0.1:{appliance.port}"
    times: dict[str, list[float]] = {"HTTP": [], "MQTT": []}
    with httpx.Client(timeout=60) as http:
        for number in range(runs + 3):
            began = time.perf_counter()
            http.post(f"{url}/v1/chat/completions", json=BODY).raise_for_status()
            between = time.perf_counter()
            client.publish(f"round-trip-{number}")
            client.replies.get(timeout=60)
            if number >= 3:
                times["HTTP"].append(1000 * (between - began))
                times["MQTT"].append(1000 * (time.perf_counter() - between))
    client.close()
    for door, some in times.items():
        ordered = sorted(some)
        last = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        table.add_row(door, f"{statistics.median(some):.1f}", f"{last:.1f}")
    return table


def main() -> None:
    # As an exception, so that what was started for this is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench mqtt", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="round trips by each door")
    options = parser.parse_args()
    store, name = ModelStore(state_dir() / "models"), Config().models.default
    present = store.find(name)
    model = present.path if present else pull(store, load_catalog()[name]).path
    console = Console()
    with (
        broker() as port,
        serving(
            model, engine__slots=4, device__id=DEVICE, mqtt__enabled=True, mqtt__port=port
        ) as appliance,
    ):
        console.print(round_trips(port, appliance, options.runs))
        console.print(intakes(port, appliance, appliance.state / "jobs.sqlite"))


if __name__ == "__main__":
    main()
