"""`./scripts/bench embed`: vectors for many clients, beside bare onnxruntime, and beside a chat.

Bare onnxruntime gets texts that are tokenized, sorted by length and cut into batches already, of
the size that is fastest here; it shares nothing with the appliance but the model's file. Both are
measured in turns, so that a machine that slows down slows both. Then the same chats are streamed,
alone and with all the clients at it; the same, because a step with drafts takes longer.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from appliance import default_model, serving
from load import Stream, stream
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from workload import FACTS, SUBJECTS, short_prompts

from edge.config.place import state_dir
from edge.host import cpu
from edge.modelstore import folders
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

MODEL = "all-minilm-l6-v2"
SIZES = (1, 4, 8, 16, 32)
CHAT_TOKENS = 128
WARM_UP = 4
"""Requests of each client that are not counted."""


def texts(count: int, seed: int) -> list[str]:
    """Notes of 5 to 120 words, half of them shorter than 25, as shift books have them."""
    source = random.Random(seed)
    found = []
    for _ in range(count):
        words = min(120, max(5, round(source.lognormvariate(3.2, 0.7))))
        found.append(" ".join(source.choice(SUBJECTS + FACTS) for _ in range(words)))
    return found


def model_folder() -> Path:
    """The model's, fetched where it is missing."""
    store = ModelStore(state_dir() / "models")
    there = folders.find(store, MODEL)
    return there.path if there else pull(store, load_catalog()[MODEL]).path


class Bare:
    """onnxruntime with nothing around it."""

    def __init__(self, folder: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        file = str(folder / "1" / "model.onnx")
        self._session = onnxruntime.InferenceSession(file, options)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def prepared(self, some: Sequence[str], size: int) -> list[dict[str, Any]]:
        """Batches of so many texts, each of like length."""
        rows = sorted((self._tokenizer.encode(text).ids for text in some), key=len)
        batches = []
        for at in range(0, len(rows), size):
            batch = rows[at : at + size]
            ids = np.zeros((len(batch), len(batch[-1])), np.int64)
            for number, row in enumerate(batch):
                ids[number, : len(row)] = row
            mask = (ids > 0).astype(np.int64)
            batches.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0})
        return batches

    def rate(self, batches: Sequence[dict[str, Any]]) -> float:
        """Texts per second."""
        began = time.perf_counter()
        for batch in batches:
            self._session.run(None, batch)
        count = sum(len(batch["input_ids"]) for batch in batches)
        return count / (time.perf_counter() - began)

    def best_size(self, some: Sequence[str]) -> int:
        rates = {}
        for size in SIZES:
            batches = self.prepared(some, size)
            self.rate(batches[-1:])
            rates[size] = max(self.rate(batches) for _ in range(2))
        return max(rates, key=lambda size: rates[size])


class Clients:
    """So many connections, each asking for the vectors of so many texts at a time."""

    def __init__(self, port: int, some: Sequence[str], clients: int, each: int) -> None:
        self._port = port
        self._clients = clients
        requests = [some[at : at + each] for at in range(0, len(some), each)]
        self._bodies = [
            msgspec.json.encode({"input": request, "model": MODEL, "encoding_format": "base64"})
            for request in requests
        ]
        self._count = len(some)

    async def rate(self) -> float:
        """All texts once; texts per second."""
        left = iter(self._bodies)
        began = time.perf_counter()
        await asyncio.gather(*(self._client(left) for _ in range(self._clients)))
        return self._count / (time.perf_counter() - began)

    async def until(self, end: asyncio.Event) -> None:
        """Ask for all texts again and again."""

        def endless() -> Any:
            while not end.is_set():
                yield from self._bodies

        left = endless()
        working = [asyncio.create_task(self._client(left)) for _ in range(self._clients)]
        await end.wait()
        for one in working:
            one.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async def _client(self, bodies: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        try:
            for body in bodies:
                head = f"POST /v1/embeddings HTTP/1.1\r\nHost: b\r\nContent-Length: {len(body)}"
                writer.write(head.encode() + b"\r\n\r\n" + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(answer.decode())
                length = answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
                await reader.readexactly(int(length))
        finally:
            writer.close()


def p99(gaps: Sequence[float]) -> float:
    return float(np.percentile(gaps, 99))


async def chats(port: int, prompts: Sequence[str]) -> list[float]:
    """The times between the tokens of chats that are streamed one after the other."""
    gaps: list[float] = []
    for prompt in prompts:
        gaps += (await stream(port, prompt, CHAT_TOKENS, Stream())).gaps
    return gaps


async def measure(port: int, bare: Bare, options: argparse.Namespace) -> None:
    some = texts(options.count, seed=1)
    size = bare.best_size(some[:96])
    batches = bare.prepared(some, size)
    clients = Clients(port, some, options.clients, options.each)
    await Clients(port, some[: options.each * WARM_UP], 1, options.each).rate()
    rates: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        rates.append((bare.rate(batches), await clients.rate()))
    table = Table(title=f"{options.clients} clients, {options.each} texts in a request")
    for head in ("", "texts/s", "ratio, median (least to most)"):
        table.add_column(head, justify="right")
    ratios = sorted(ours / theirs for theirs, ours in rates)
    middle = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    theirs = statistics.median(one for one, _ in rates)
    table.add_row(f"onnxruntime alone, batches of {size}", f"{theirs:.0f}", "")
    ours = statistics.median(one for _, one in rates)
    table.add_row("edge, over HTTP", f"{ours:.0f}", middle)
    Console().print(table)
    await beside_a_chat(port, clients, options.rounds)


async def beside_a_chat(port: int, clients: Clients, rounds: int) -> None:
    await chats(port, short_prompts(1, seed=0))
    alone, beside = [], []
    for number in range(rounds):
        prompts = short_prompts(2, seed=number + 1)
        alone += await chats(port, prompts)
        end = asyncio.Event()
        asking = asyncio.create_task(clients.until(end))
        beside += await chats(port, prompts)
        end.set()
        await asking
    table = Table(title="between two tokens of a chat, ms")
    for head in ("", "median", "p99"):
        table.add_column(head, justify="right")
    for name, gaps in (("alone", alone), ("with the clients", beside)):
        table.add_row(name, f"{statistics.median(gaps) * 1e3:.1f}", f"{p99(gaps) * 1e3:.1f}")
    medians = statistics.median(beside) / statistics.median(alone)
    table.add_row("ratio", f"{medians:.2f}", f"{p99(beside) / p99(alone):.2f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench embed", description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--each", type=int, default=16, help="texts in a request")
    parser.add_argument("--count", type=int, default=2048, help="texts of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nice", type=int, help="in place of the configuration's onnx.nice")
    options = parser.parse_args()
    folder = model_folder()
    settings: dict[str, Any] = {"cache__enabled": False}
    if options.nice is not None:
        settings["onnx__nice"] = options.nice
    with serving(default_model(), **settings) as appliance:
        (appliance.state / "models" / MODEL).symlink_to(folder)
        asyncio.run(measure(appliance.port, Bare(folder, cpu.usable_cores()), options))


main()
