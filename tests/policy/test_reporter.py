"""Reports of finished work, as the server that takes them sees them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from headquarters import Answer, Headquarters, Post, headquarters
from ports import free_port

from edge.config.doors import Device
from edge.config.keeping import Sync
from edge.errors import StoreFull
from edge.metrics import Metrics
from edge.store.reports import Books, Reports
from edge.sync import reporter as reporter_module
from edge.sync.reporter import Record, Reporter
from edge.types import Attempt, ChatPrompt, Message, Request, Sampling

CHILD = Path(__file__).with_name("reporting_child.py")
PROMPT = "how warm is the press?"
CANARY = "sk-canary-of-the-line"


@pytest.fixture
def server() -> Iterator[Headquarters]:
    with headquarters() as running:
        yield running


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(reporter_module, "LONGEST_RETRY", 0.05)


async def until(holds: Callable[[], object]) -> None:
    """Wait until it is true; the test's own time-out is the limit."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def record(number: int, **other: Any) -> Record:
    fields = {"door": "http", "route": "local", "model": "m", "status": "ok", "seconds": 0.25}
    return Record(**{"id": f"r{number}", "time": 1000.0 + number, **fields, **other})


def request(**fields: Any) -> Request:
    return Request("id", [ChatPrompt([Message("user", PROMPT)])], Sampling(), **fields)


class Appliance:
    """A reporter on a file, with the numbers it shows."""

    def __init__(self, reports: Reports, throttle: Any = None, **settings: Any) -> None:
        self.metrics = Metrics()
        sync = Sync(**{"interval_seconds": 0.05, "batch": 10, **settings})
        self.reporter = Reporter(reports, sync, Device("press-07", "a"), self.metrics, throttle)

    def note(self, *numbers: int, **other: Any) -> None:
        for number in numbers:
            self.reporter.note(record(number, **other), request(), ["warm"])

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"edge_reports_{name}", labels) or 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Appliance]:
        task = asyncio.create_task(self.reporter.run())
        try:
            yield self
        finally:
            await self.reporter.stop()
            await task
            assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def reports(tmp_path: Path) -> AsyncIterator[Reports]:
    async with Reports(tmp_path / "reports.sqlite") as opened:
        yield opened


async def test_what_a_report_looks_like(server: Headquarters, reports: Reports) -> None:
    """Gzipped lines of JSON with every field, and a key made of the ids."""
    attempts = [Attempt("cloud:far", "upstream_timeout", 3.0), Attempt("local:m", "ok", 0.5)]
    async with Appliance(reports, report_url=server.url).running() as appliance:
        counts = {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 5}
        appliance.note(1, attempts=attempts, energy_joules=2.5, **counts)
        await until(lambda: server.taken)
        await until(lambda: appliance.value("sent_total") == 1)
        assert appliance.value("pending") == 0
    (post,) = server.taken
    assert post.path == "/reports"
    assert post.headers["content-type"] == "application/x-ndjson"
    assert post.headers["content-encoding"] == "gzip"
    assert post.headers["idempotency-key"] == hashlib.sha256(b"r1").hexdigest()
    assert "authorization" not in post.headers
    assert post.lines == [
        {
            "id": "r1",
            "time": 1001.0,
            "door": "http",
            "route": "local",
            "model": "m",
            "status": "ok",
            "seconds": 0.25,
            "prompt_tokens": 7,
            "cached_tokens": 3,
            "completion_tokens": 5,
            "energy_joules": 2.5,
            "attempts": [
                {"target": "cloud:far", "outcome": "upstream_timeout", "seconds": 3.0},
                {"target": "local:m", "outcome": "ok", "seconds": 0.5},
            ],
            "device": "press-07",
            "site": "a",
            "is_historical": False,
        }
    ]


async def test_what_was_said_is_reported_only_when_asked_for(
    server: Headquarters, reports: Reports
) -> None:
    """And never of a request that had to stay on the machine."""
    settings = {"report_url": server.url, "report": "full"}
    async with Appliance(reports, **settings).running() as appliance:
        appliance.reporter.note(record(1), request(), ["warm", "hot"])
        appliance.reporter.note(record(2), request(route="local"), ["warm"])
        await until(lambda: len(server.ids) == 2)
    first, second = (line for post in server.taken for line in post.lines)
    prompt = {"type": "chat", "messages": [{"role": "user", "content": PROMPT}]}
    assert first["content"] == {"prompts": [prompt], "answers": ["warm", "hot"]}
    assert "content" not in second


@pytest.mark.parametrize("settings", [{"report": "none"}, {"report_url": None}])
async def test_nothing_is_kept_when_nothing_is_reported(
    server: Headquarters, reports: Reports, settings: dict[str, Any]
) -> None:
    """Neither what comes now, nor what was noted before reports were turned off."""
    before = Appliance(reports, report_url=server.url)
    before.note(1)
    await before.reporter.stop()
    assert await reports.books() == Books(1, 0)
    async with Appliance(reports, **{"report_url": server.url, **settings}).running() as appliance:
        appliance.note(2)
        await asyncio.sleep(0.2)
    assert await reports.books() == Books(0, 0)
    assert server.posts == []


async def test_batches_in_order(server: Headquarters, reports: Reports) -> None:
    """Full ones as soon as there are enough; the rest with the next turn, here after a restart."""
    settings = {"report_url": server.url, "interval_seconds": 1000}
    async with Appliance(reports, **settings).running() as appliance:
        appliance.note(*range(35))
        await until(lambda: appliance.value("pending") == 5)
    assert [len(post.ids) for post in server.taken] == [10, 10, 10]
    async with Appliance(reports, **settings).running():
        await until(lambda: len(server.taken) == 4)
    assert server.ids == [f"r{number}" for number in range(35)]


async def test_a_note_waits_for_nothing(
    server: Headquarters, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk hangs, notes are taken; they are written together once it does not."""
    groups: list[int] = []
    opened, add = asyncio.Event(), reports.add

    async def slow(rows: Any) -> Books:
        groups.append(len(rows))
        await opened.wait()
        return await add(rows)

    monkeypatch.setattr(reports, "add", slow)
    async with Appliance(reports, report_url=server.url).running() as appliance:
        appliance.note(0)
        await until(lambda: groups)
        appliance.note(*range(1, 100))
        opened.set()
        await until(lambda: len(server.ids) == 100)
    assert groups == [1, 99]


async def test_a_store_that_is_full(
    server: Headquarters,
    reports: Reports,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Notes wait in memory, the oldest give way to a bound, and the rest is written later."""
    monkeypatch.setattr(reporter_module, "MOST_NOTED", 50)
    full, add = [True], reports.add

    async def fail(rows: Any) -> Books:
        if full:
            raise StoreFull("no room")
        return await add(rows)

    monkeypatch.setattr(reports, "add", fail)
    async with Appliance(reports, report_url=server.url).running() as appliance:
        appliance.note(*range(60))
        await until(lambda: caplog.records)
        assert appliance.value("dropped_total", reason="full") == 10
        full.clear()
        await until(lambda: len(server.ids) == 50)
    assert server.ids == [f"r{number}" for number in range(10, 60)]


async def test_too_many_records(server: Headquarters, tmp_path: Path) -> None:
    """The oldest give way in the file as well, and are counted."""
    async with Reports(tmp_path / "small.sqlite", max_rows=20) as reports:
        appliance = Appliance(reports, report_url=server.url)
        appliance.note(*range(50))
        await appliance.reporter.stop()
        assert appliance.value("dropped_total", reason="full") == 30
        assert appliance.value("pending") == 20
        async with Appliance(reports, report_url=server.url).running():
            await until(lambda: len(server.ids) == 20)
    assert server.ids == [f"r{number}" for number in range(30, 50)]


async def test_an_outage(
    tmp_path: Path, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that it began and one that it is over; what was made meanwhile is historical."""
    caplog.set_level(logging.INFO, logger="edge.sync.reporter")
    port = free_port()
    with headquarters(port) as server:
        url = server.url
    async with Appliance(reports, report_url=url).running() as appliance:
        appliance.note(1)
        await until(lambda: caplog.records)
        appliance.note(2, 3)
        await asyncio.sleep(0.3)  # for several attempts
        assert len(caplog.records) == 1
        assert appliance.value("pending") == 3
        with headquarters(port) as server:
            await until(lambda: len(server.ids) == 3)
            await until(lambda: len(caplog.records) == 2)
            appliance.note(4)
            await until(lambda: len(server.ids) == 4)
    lines = [line for post in server.taken for line in post.lines]
    assert [(line["id"], line["is_historical"]) for line in lines] == [
        ("r1", False),
        ("r2", True),
        ("r3", True),
        ("r4", False),
    ]


def once(answer: Answer) -> Callable[[Post], Answer]:
    """A judge that gives this answer first and takes everything afterwards."""
    answers = [answer]
    return lambda post: answers.pop() if answers else (200, {})


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after(server: Headquarters, reports: Reports, status: int, form: str) -> None:
    """Nothing is sent before that time, and then the same batch with the same key."""
    at: list[float] = []

    def judge(post: Post) -> Answer:
        at.append(time.monotonic())
        if len(at) > 1:
            return 200, {}
        # A date has whole seconds: this one is at least one away.
        value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        return status, {"Retry-After": value}

    server.judge = judge
    async with Appliance(reports, report_url=server.url).running() as appliance:
        appliance.note(1)
        await until(lambda: server.posts)
        appliance.note(*range(2, 40))
        await until(lambda: len(server.ids) == 39)
    assert at[1] - at[0] >= 0.9
    first, second = server.posts[:2]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.ids == second.ids
    assert server.ids == [f"r{number}" for number in range(1, 40)]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 500, 502])
async def test_other_failures(server: Headquarters, reports: Reports, status: int) -> None:
    """The batch is kept and sent again; nothing is dropped, no redirection is followed."""
    server.judge = once((status, {"Location": "/elsewhere"}))
    async with Appliance(reports, report_url=server.url).running() as appliance:
        appliance.note(1)
        await until(lambda: server.ids == ["r1"])
        await until(lambda: appliance.value("pending") == 0)
        assert appliance.value("dropped_total", reason="refused") == 0
    assert [post.path for post in server.posts] == ["/reports", "/reports"]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_bad_records_are_set_apart(
    server: Headquarters, reports: Reports, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of many are refused: they alone are dropped, loudly, and the order is kept."""
    bad = {"r7", "r23"}
    server.judge = lambda post: (status, {}) if bad & set(post.ids) else (200, {})
    before = Appliance(reports, report_url=server.url)
    before.note(*range(50))
    await before.reporter.stop()
    async with Appliance(reports, report_url=server.url, batch=32).running() as appliance:
        await until(lambda: appliance.value("sent_total") == 48)
        assert appliance.value("dropped_total", reason="refused") == 2
        assert appliance.value("pending") == 0
    assert server.ids == [f"r{n}" for n in range(50) if f"r{n}" not in bad]
    assert [r.levelname for r in caplog.records if "DROPPED" in r.message] == ["ERROR", "ERROR"]


async def test_an_outage_in_the_middle_of_a_search(server: Headquarters, reports: Reports) -> None:
    """The bad record is still found, and no other is dropped."""
    chance = random.Random(3)

    def judge(post: Post) -> Answer:
        if chance.random() < 0.5:
            return 500, {}
        return (422, {}) if "r5" in post.ids else (200, {})

    server.judge = judge
    async with Appliance(reports, report_url=server.url, batch=40).running() as appliance:
        appliance.note(*range(40))
        await until(lambda: appliance.value("sent_total") == 39)
    assert server.ids == [f"r{number}" for number in range(40) if number != 5]


async def test_the_key(
    server: Headquarters, reports: Reports, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Read for each report, so that a new one is used at once; in no log, whatever is wrong."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "key"
    server.judge = lambda post: (200 if post.headers.get("authorization") else 401, {})
    settings = {"report_url": server.url, "api_key_file": str(file)}
    async with Appliance(reports, **settings).running() as appliance:
        appliance.note(1)
        await until(lambda: "cannot be read" in caplog.text)
        caplog.clear()
        for wrong in (b"", f"{CANARY}\r\nX-Evil: 1".encode(), f"{CANARY}é".encode()):
            file.write_bytes(wrong)
            await asyncio.sleep(0.15)
        assert server.posts == []
        file.write_text(f"{CANARY}-1\n")
        await until(lambda: len(server.ids) == 1)
        file.write_text(f"{CANARY}-2\n")
        appliance.note(2)
        await until(lambda: len(server.ids) == 2)
    keys = [post.headers["authorization"] for post in server.taken]
    assert keys == [f"Bearer {CANARY}-1", f"Bearer {CANARY}-2"]
    assert CANARY not in caplog.text


async def test_the_throttle(server: Headquarters, reports: Reports) -> None:
    """Every byte of the body asks for its turn before it goes over the line."""
    asked: list[int] = []
    turns = asyncio.Semaphore(0)

    class Throttle:
        async def wait(self, size: int) -> None:
            asked.append(size)
            await turns.acquire()

    noise = random.Random(1).randbytes(20_000).hex()
    appliance = Appliance(reports, Throttle(), report_url=server.url, report="full")
    async with appliance.running():
        appliance.reporter.note(record(1), request(), [noise])
        await until(lambda: asked)
        await asyncio.sleep(0.1)
        assert server.posts == []
        for _ in range(100):
            turns.release()
        await until(lambda: server.taken)
    assert len(asked) > 4
    assert sum(asked) == len(server.taken[0].body)
    assert "transfer-encoding" not in server.taken[0].headers


async def test_a_stop_in_the_middle_of_a_report(server: Headquarters, reports: Reports) -> None:
    """It is not waited for, and what it was about is sent after the next start."""
    stuck, free = threading.Event(), threading.Event()
    taken: list[str] = []

    def judge(post: Post) -> Answer:
        if not stuck.is_set():
            stuck.set()
            free.wait(60)
            return 500, {}
        taken.extend(post.ids)
        return 200, {}

    server.judge = judge
    async with Appliance(reports, report_url=server.url).running() as appliance:
        appliance.note(1)
        await until(stuck.is_set)
        appliance.note(2)
        await asyncio.wait_for(appliance.reporter.stop(), 30)
    free.set()
    async with Appliance(reports, report_url=server.url).running():
        await until(lambda: taken == ["r1", "r2"])


async def test_records_survive_sigkill(tmp_path: Path) -> None:
    """Of a child killed again and again, every record that was written is taken at last."""
    path, written = tmp_path / "reports.sqlite", []
    chance = random.Random(7)
    with headquarters() as server:
        server.judge = lambda post: (chance.choice([200, 200, 500]), {})
        for turn in range(6):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, str(CHILD), str(path), server.url, str(turn)),
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdout is not None
            lines = [await child.stdout.readline() for _ in range(chance.randrange(1, 150))]
            child.kill()
            lines += (await child.stdout.read()).splitlines()
            await child.wait()
            written += [line.decode().strip() for line in lines]
        server.judge = lambda post: (200, {})
        async with (
            Reports(path) as reports,
            Appliance(reports, report_url=server.url).running() as appliance,
        ):
            await until(lambda: appliance.value("pending") == 0 and set(written) <= set(server.ids))
    assert len(written) > 100
    # Each child's records come in their order, whatever comes twice.
    firsts = list(dict.fromkeys(server.ids))
    for turn in range(6):
        numbers = [int(name.split(".")[1]) for name in firsts if name.startswith(f"{turn}.")]
        assert numbers == sorted(numbers)
