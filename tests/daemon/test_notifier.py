"""When the watchdog hears nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daemon_process import PATIENCE, poll
from notify_socket import NotifySocket

from edge.config.live import Reloads
from edge.notifier import Notifier
from edge.runtime import hang
from edge.runtime.hang import Bounds, HangWatch


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    listening = NotifySocket(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", listening.environ["NOTIFY_SOCKET"])
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield listening
    listening.close()


def appliance() -> Any:
    """As far as it is asked. `hung`: what is stuck."""
    fleet = SimpleNamespace(runners=[], loaded=["m"], rules=SimpleNamespace(at_start=("m",)))
    service = SimpleNamespace(live=0, reloads=Reloads())
    found = SimpleNamespace(
        fleet=fleet, service=service, dispatcher=SimpleNamespace(queued=0), hung=None
    )
    found.stuck = lambda: found.hung
    return found


@asynccontextmanager
async def notifying(notifier: Notifier) -> AsyncIterator[None]:
    task = asyncio.create_task(notifier.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(systemd: NotifySocket, line: str) -> None:
    systemd.forget()
    await asyncio.to_thread(systemd.wait, line)


async def test_a_worker_that_cannot_be_ended(systemd: NotifySocket) -> None:
    """No pings while there is one, so that systemd starts everything anew; else there are."""
    stub = appliance()
    notifier = Notifier(stub)
    async with notifying(notifier):
        notifier.ready()
        await until(systemd, "WATCHDOG=1")
        stub.hung = "m"
        stub.dispatcher.queued = 1
        await until(systemd, "STATUS=serving m; 0 live, 0 waiting, 1 queued")
        stub.dispatcher.queued = 2
        await until(systemd, "STATUS=serving m; 0 live, 0 waiting, 2 queued")
        assert "WATCHDOG=1" not in systemd.lines()
        stub.hung = None
        await until(systemd, "WATCHDOG=1")


async def test_a_loop_that_does_not_turn(systemd: NotifySocket) -> None:
    """As where something blocks it: what is not told cannot be heard."""
    async with notifying(Notifier(appliance())):
        await until(systemd, "WATCHDOG=1")
        time.sleep(0.3)  # noqa: ASYNC251 - many ticks
        systemd.forget()
        time.sleep(0.3)  # noqa: ASYNC251
        assert systemd.lines() == []


async def test_a_stop_is_not_taken_back(systemd: NotifySocket) -> None:
    """By a reload that ends after it has begun."""
    notifier = Notifier(appliance())
    notifier.stopping()
    notifier.ready()
    assert "READY=1" not in systemd.lines()


class Immortal:
    """A process that SIGKILL does not reach, as where a driver holds it in the kernel."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.pid = self.process.pid
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self) -> None: ...


async def test_when_it_counts_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some time after it was killed, and not before."""
    monkeypatch.setattr(hang, "TICK", 0.05)
    worker = Immortal()
    try:
        watch = HangWatch("m", worker)
        watch.loaded(Bounds(still=0.3, longest=600, share=0.02))
        await asyncio.wait_for(watch.run(), PATIENCE)
        assert not watch.stuck
        monkeypatch.setattr(hang, "STUCK_SECONDS", 0.05)
        await asyncio.to_thread(poll, lambda: watch.stuck, "stuck")
    finally:
        worker.process.kill()
        worker.process.wait(PATIENCE)
