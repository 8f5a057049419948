"""`edge serve`: starts everything in order, and stops it in reverse.

What it consists of is wired in `appliance.py`. A background task that ends brings the daemon down,
and systemd starts it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, closing
from typing import Any

import uvloop

from edge import logs
from edge.appliance import Appliance
from edge.config.place import state_dir
from edge.config.tree import Config
from edge.fleet.installed import InstalledModels
from edge.host import systemd
from edge.http_server import HttpServer
from edge.listeners import listeners
from edge.metrics import Metrics
from edge.notifier import Notifier
from edge.reload import Reload
from edge.startup import check_chains, open_first

logger = logging.getLogger("edge")

DRAIN_SECONDS = 20.0
"""Time that live streams get to finish when the daemon stops."""

SAME_SIGNAL_SECONDS = 1.0
"""One Ctrl-C may come twice: from the terminal, and from a script that passes it on."""


def run(config: Config, read: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; raises `EdgeError` when it cannot
    start. read: the configuration as it is written then."""
    logs.set_up()
    for library in ("httpx", "uvicorn.error"):
        logging.getLogger(library).setLevel(logging.WARNING)
    metrics = Metrics()
    in_force, found = listeners(config)
    models = config.models
    scales, drafts = models.adapter_scale, models.drafts
    source = InstalledModels(state_dir(), config.engine, metrics, scales, drafts)
    with closing(source) as installed:
        with systemd.extending("looking at the model files"):
            open_first(config, installed)
        appliance = Appliance(in_force, installed, metrics)
        check_chains(config, appliance.onnx.names())
        notifier = Notifier(appliance)
        reload = Reload(appliance, notifier, read, config)
        server = HttpServer(appliance, found)
        uvloop.run(Daemon(appliance, server, notifier, reload).run())
    return 0


class Daemon:
    """Owns all tasks. `run` returns after a signal, and raises when a task failed."""

    def __init__(
        self, appliance: Appliance, server: HttpServer, notifier: Notifier, reload: Reload
    ) -> None:
        self.appliance = appliance
        self.server = server
        self.notifier = notifier
        self.reload = reload
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self._told_at = self._ends = 0.0
        self._on_terminal = os.isatty(sys.stderr.fileno())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        # `edge serve` holds it back from its first moment, as its default ends the process.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        appliance = self.appliance
        async with AsyncExitStack() as stack:
            await appliance.open_files(stack)
            # Behind all components, and before the files close that their last turns use.
            stack.push_async_callback(self._end_tasks)
            # After the components, whose end is an error that the streams still tell of.
            stack.push_async_callback(self._stop_http)
            for name, component in appliance.components():
                self._start(component.run(), name)
                stack.push_async_callback(component.stop)
            self._start(self.server.run(), "http")
            self._start(self.notifier.run(), "notifications")
            self.server.announce()
            await self._until(self._ready())
            if not self.stopping.is_set():
                self._start(self.reload.run(), "reload")
            await self._until(self.stopping.wait())
            await self._drain()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        logger.info("stopped")

    def _interrupted(self) -> None:
        """Ctrl-C: like SIGTERM, and the second one ends the wait for what still runs."""
        now = time.monotonic()
        if not self.stopping.is_set():
            self._told_at = now
            self.stopping.set()
        elif now - self._told_at > SAME_SIGNAL_SECONDS:
            self.hurry.set()

    def _hung_up(self) -> None:
        """SIGHUP: somebody asks for a reload, or the terminal that this was started from is gone,
        which no program outlives unless it is told to."""
        if self._on_terminal and not os.isatty(sys.stderr.fileno()):
            _log_to_nowhere()
            self.stopping.set()
        elif not self.stopping.is_set():
            self.reload.ask()

    async def _end_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _drain(self) -> None:
        """Take on nothing more, give kept work back, and let live requests finish."""
        appliance = self.appliance
        self._ends = time.monotonic() + DRAIN_SECONDS
        await self.server.release()
        self.notifier.stopping()
        await appliance.batcher.stop()
        await appliance.dispatcher.stop()
        if appliance.mqtt is not None:
            await appliance.mqtt.stop()
        logger.info("stopping: %d live requests may finish", appliance.service.live)
        drained = asyncio.create_task(appliance.service.drain(self._ends - time.monotonic()))
        hurried = asyncio.create_task(self.hurry.wait())
        await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, hurried):
            task.cancel()
        if appliance.service.live:
            logger.warning("%d live requests are cut", appliance.service.live)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))

    async def _until(self, work: Coroutine[Any, Any, Any]) -> None:
        """Wait for `work` or a signal; a background task that ends meanwhile is a failure."""
        waited = asyncio.create_task(work)
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({waited, stop, *self.tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in self.tasks:
                if task.done() and not self.stopping.is_set():
                    task.result()
                    raise RuntimeError(f"the task {task.get_name()} ended by itself")
            if waited.done():
                waited.result()
        finally:
            for future in (waited, stop):
                future.cancel()
            await asyncio.gather(waited, stop, return_exceptions=True)

    async def _ready(self) -> None:
        """All that load at the start have loaded, or have failed to; the default one must load if
        it is here."""
        fleet = self.appliance.fleet
        await fleet.started.wait()
        default = fleet.find(self.appliance.config.models.default)
        if default is not None and default.name in fleet.rules.at_start and default.error:
            raise default.error
        self.notifier.ready()
        logger.info("ready")

    async def _stop_http(self) -> None:
        """Answers that are made may be taken for the rest of the time."""
        self.server.finish(0 if self.hurry.is_set() else self._ends - time.monotonic())
        for task in self.tasks:
            if task.get_name() == "http":
                await asyncio.gather(task, return_exceptions=True)


def _log_to_nowhere() -> None:
    """Python keeps a line that it could not write, and ends with 120 if it cannot at the exit."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
