"""The clients of `./scripts/bench thermal`: reports in the queue, and live requests of all three
priorities, each class with its own pace. What becomes of every one of them is written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import statistics
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from workload import short_prompts

Class = Literal["batch", "normal", "critical"]
Outcome = Literal["answered", "refused", "lost"]

BATCH_CLIENTS, NORMAL_CLIENTS = 2, 2
TOKENS: dict[Class, int] = {"batch": 32, "normal": 16, "critical": 4}
SHARE: dict[Class, float] = {"normal": 0.3, "critical": 0.1}
"""Of the worker's time, that requests of a class take together; batch work takes all there is."""

TRIALS = 5
KEPT = 40
LONGEST_PAUSE = 5.0
"""Seconds that a refused client waits at most here, whatever it is told: its board is in a hurry,
and the client wants to be heard."""


@dataclass
class Ending:
    priority: Class
    sent: float
    seconds: float
    outcome: Outcome
    why: str = ""


@dataclass
class Load:
    """began: what times are counted from. tokens: when each came, by class. kept: places of the
    reports in the queue.
    queue: time, reports that wait, and that run."""

    port: int
    deadline: float
    began: float = 0.0
    endings: list[Ending] = field(default_factory=list)
    tokens: dict[Class, list[float]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    queue: list[tuple[float, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prompts = itertools.cycle(short_prompts(400, seed=9))
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._usual: dict[Class, float] = {}
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=600)
        for priority in TOKENS:
            self.tokens[priority] = []

    async def calibrate(self) -> None:
        """How long requests take here with nobody beside them, so that each class has its share of
        this machine."""
        for priority in SHARE:
            for _ in range(TRIALS):
                await self._ask(priority)
            took = [one.seconds for one in self.endings if one.priority == priority]
            self._usual[priority] = statistics.median(took)
        self.endings.clear()
        for times in self.tokens.values():
            times.clear()

    async def start(self) -> None:
        self.began = time.monotonic()
        for _ in range(KEPT):
            body = self._body("batch") | {"stream": False}
            answer = await self._http.post(
                "/v1/chat/completions", json=body, headers={"Prefer": "respond-async"}
            )
            answer.raise_for_status()
            self.kept.append(answer.headers["location"])
        for _ in range(BATCH_CLIENTS):
            self._go(self._again_and_again("batch", 0.0))
        for _ in range(NORMAL_CLIENTS):
            period = self._usual["normal"] * NORMAL_CLIENTS / SHARE["normal"]
            self._go(self._again_and_again("normal", period - self._usual["normal"]))
        self._go(self._alarms())
        self._watching = asyncio.create_task(self._watch_queue())

    async def stop(self) -> None:
        """Those that are being answered are waited for, and then the reports."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def reports(self) -> int:
        """How many of those that were accepted are answered in the end."""
        ends = [await self._end(place) for place in self.kept]
        return sum(end in ("completed", "incomplete") for end in ends)

    async def close(self) -> None:
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        await self._http.aclose()

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _body(self, priority: Class) -> dict[str, Any]:
        edge: dict[str, Any] = {"priority": priority}
        if priority == "critical":
            edge["deadline_ms"] = int(self.deadline * 1000)
        return {
            "messages": [{"role": "user", "content": next(self._prompts)}],
            "max_tokens": TOKENS[priority],
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "edge": edge,
        }

    async def _end(self, place: str) -> str:
        while True:
            status = str((await self._http.get(place)).json()["status"])
            if status not in ("queued", "in_progress"):
                return status
            await asyncio.sleep(0.2)

    async def _again_and_again(self, priority: Class, pause: float) -> None:
        chance = random.Random(len(self._tasks))
        while not self._stopping:
            told = await self._ask(priority)
            await asyncio.sleep(told or pause * chance.uniform(0.5, 1.5))

    async def _alarms(self) -> None:
        """At their own times, whether or not the last is answered."""
        due, asked = time.monotonic(), []
        while not self._stopping:
            asked.append(asyncio.create_task(self._ask("critical")))
            due += self._usual["critical"] / SHARE["critical"]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*asked)

    async def _watch_queue(self) -> None:
        while True:
            text = (await self._http.get("/metrics")).text
            counts = {
                state: int(float(line.rpartition(" ")[2]))
                for line in text.splitlines()
                for state in ("queued", "running")
                if line.startswith(f'edge_jobs{{state="{state}"}}')
            }
            self.queue.append((self._now(), counts.get("queued", 0), counts.get("running", 0)))
            await asyncio.sleep(1)

    async def _ask(self, priority: Class) -> float:
        """Seconds to wait where it was refused, else 0."""
        sent = self._now()
        outcome: Outcome = "lost"
        why, pause = "it ended without [DONE]", 0.0
        try:
            body = self._body(priority)
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code == 503 and "retry-after" in answer.headers:
                    outcome, why = "refused", (await answer.aread()).decode()
                    why = json.loads(why)["error"]["message"]
                    pause = min(LONGEST_PAUSE, float(answer.headers["retry-after"]))
                elif answer.status_code != 200:
                    why = (await answer.aread()).decode()
                else:
                    async for line in answer.aiter_lines():
                        if '"delta":{"content"' in line:
                            self.tokens[priority].append(self._now())
                        elif line.startswith('data: {"error"'):
                            why = line
                        elif line == "data: [DONE]":
                            outcome, why = "answered", ""
        except httpx.HTTPError as error:
            why = repr(error)
        self.endings.append(Ending(priority, sent, self._now() - sent, outcome, why))
        return pause

    def _now(self) -> float:
        return time.monotonic() - self.began
