"""Which silence is a hang."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from daemon_process import PATIENCE, poll

from edge.runtime import hang
from edge.runtime.hang import Activity, Bounds, HangWatch, Silence, activity, loading

BOUNDS = Bounds(still=20, longest=600, share=0.02)
IDLE = Activity(1.0, 0, waits=False)


def pass_seconds(silence: Silence, seconds: int, now: Activity, **each: float) -> str | None:
    """One look a second; each: what it does in a second. The first verdict."""
    for second in range(1, seconds + 1):
        cpu = now.cpu + second * each.get("cpu", 0)
        faults = now.faults + int(second * each.get("faults", 0))
        ready = second % 10 < 10 * each.get("ready", 0)
        if verdict := silence.goes_on(1.0, Activity(cpu, faults, now.waits, ready)):
            return verdict
    return None


def test_one_that_does_nothing() -> None:
    """From the first look on, 20 s; not one second less."""
    assert pass_seconds(Silence(BOUNDS), 20, IDLE) is None
    assert pass_seconds(Silence(BOUNDS), 21, IDLE) == "it has done nothing for 20 s"


def test_one_that_hangs_in_the_middle_of_its_work() -> None:
    """What it did before the last 20 s does not count for it."""
    silence = Silence(BOUNDS)
    assert pass_seconds(silence, 200, IDLE, cpu=2) is None
    stopped = Activity(IDLE.cpu + 400, 0, waits=False)
    assert pass_seconds(silence, 19, stopped) is None
    assert pass_seconds(silence, 1, stopped) is not None


@pytest.mark.parametrize(
    "does",
    [{"cpu": 1.9}, {"cpu": 0.05}, {"faults": 0.2}, {"cpu": 0.005, "ready": 0.9}],
    ids=["computes", "slowed down", "swapping", "starved"],
)
def test_a_slow_one_is_left_alone(does: dict[str, float]) -> None:
    """For minutes, and not for ever."""
    silence = Silence(BOUNDS)
    assert pass_seconds(silence, 599, IDLE, **does) is None
    assert "without a result for 600 s" in (pass_seconds(silence, 1, IDLE, **does) or "")


def test_one_that_only_reads_its_messages_hangs() -> None:
    """The thread that takes commands is not the one that computes."""
    assert pass_seconds(Silence(BOUNDS), 30, IDLE, cpu=0.005) is not None
    assert pass_seconds(Silence(BOUNDS), 30, IDLE, cpu=0.005, ready=0.2) is not None


def test_one_that_waits_for_a_device() -> None:
    """Killing it would not end it, either."""
    assert pass_seconds(Silence(BOUNDS), 500, Activity(1.0, 0, waits=True)) is None


def test_whatever_is_said_breaks_the_silence() -> None:
    silence = Silence(BOUNDS)
    for _ in range(100):
        assert pass_seconds(silence, 15, IDLE) is None
        silence.broken()


def test_a_load_may_be_slower() -> None:
    """A hundredth of a second of work in two minutes is a sign of life from a slow disk."""
    assert pass_seconds(Silence(loading()), 119, IDLE) is None
    assert pass_seconds(Silence(loading()), 130, IDLE) is not None
    assert pass_seconds(Silence(loading()), 800, IDLE, cpu=0.0002) is None
    assert pass_seconds(Silence(loading()), 901, IDLE, cpu=1) is not None


class Child:
    """A process with a name that makes /proc hard to read."""

    def __init__(self, code: str) -> None:
        name = "import ctypes; ctypes.CDLL(None).prctl(15, b') D 1 (', 0, 0, 0)\n"
        self.process = subprocess.Popen([sys.executable, "-c", name + code])
        self.pid = self.process.pid

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture
def busy() -> Iterator[Child]:
    child = Child("while True: pass")
    yield child
    child.kill()
    child.process.wait(PATIENCE)


def test_a_process_as_it_is(busy: Child) -> None:
    """Its time counts up; while it is stopped it does not; and then it is gone."""

    def seen() -> Activity:
        found = activity(busy.pid)
        assert found is not None
        return found

    poll(lambda: seen().cpu > 0.05, "burns time")
    assert not seen().waits
    os.kill(busy.pid, signal.SIGSTOP)
    status = Path(f"/proc/{busy.pid}/status")
    poll(lambda: "State:\tT" in status.read_text(), "stopped")
    before = seen().cpu
    assert seen().cpu == before
    busy.kill()
    busy.process.wait(PATIENCE)
    assert activity(busy.pid) is None


def test_one_that_others_leave_no_processor() -> None:
    """Ready to run at every look, and next to none of the time running."""
    core = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    idle = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
    others = Child(f"{core}while True: pass")
    starved = Child(f"{core}{idle}while True: pass")
    sleeps = Child("import time; time.sleep(1000)")
    try:
        poll(lambda: os.sched_getscheduler(starved.pid) == os.SCHED_IDLE, "it comes last")
        then, began = activity(starved.pid), time.monotonic()
        assert then is not None
        now = then
        for _ in range(20):
            time.sleep(0.1)
            now = activity(starved.pid) or IDLE
            assert now.ready
        assert now.cpu - then.cpu < 0.3 * (time.monotonic() - began)
        poll(lambda: not (activity(sleeps.pid) or IDLE).ready, "asleep")
    finally:
        for child in (others, starved, sleeps):
            child.kill()
            child.process.wait(PATIENCE)


async def test_a_stopped_one_is_killed(busy: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang, "TICK", 0.05)
    watch = HangWatch("m", busy)
    watch.loaded(Bounds(still=0.5, longest=600, share=0.02))
    os.kill(busy.pid, signal.SIGSTOP)
    await asyncio.wait_for(watch.run(), PATIENCE)
    assert watch.reason is not None
    assert busy.process.wait(PATIENCE) == -signal.SIGKILL


async def test_nobody_is_blamed_for_a_pause_of_the_daemon(
    busy: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour passes between two looks, as where the daemon was stopped: it counts as a moment."""
    monkeypatch.setattr(hang, "TICK", 0.05)
    watch = HangWatch("m", busy)
    watch.loaded(Bounds(still=30, longest=600, share=0.02))
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    looks: list[float] = []

    def an_hour_later() -> float:
        looks.append(time.monotonic() + 3600 * (len(looks) + 1))
        return looks[-1]

    monkeypatch.setattr(hang, "time", SimpleNamespace(monotonic=an_hour_later))
    await asyncio.to_thread(poll, lambda: len(looks) > 5 or watching.done(), "five looks")
    assert watch.reason is None
    watching.cancel()
