"""`edge serve`: starts everything in order, and stops it in reverse.

What it consists of is wired in `appliance.py`. systemd hears READY when every model has answered,
and WATCHDOG while the loop and its tasks live.

A background task that ends brings the daemon down, and systemd starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from edge import __version__
from edge.api.http.connection import bounded
from edge.appliance import Appliance
from edge.config import Config, is_loopback
from edge.host import systemd
from edge.loops import Loop
from edge.startup import listen, model_paths

logger = logging.getLogger("edge")

DRAIN_SECONDS = 20.0
"""Time that live streams get to finish when the daemon stops."""


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; raises `EdgeError` when it cannot
    start."""
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    paths = model_paths(config)
    listener = listen(config.http.host, config.http.port)
    uvloop.run(Daemon(config, paths, listener).run())
    return 0


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the daemon decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Daemon:
    """Owns all tasks. `run` returns after a signal, and raises when a task failed."""

    def __init__(self, config: Config, paths: dict[str, Path], listener: socket.socket) -> None:
        self.config = config
        self.listener = listener
        self.appliance = Appliance(config, paths)
        self.stopping = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        appliance = self.appliance
        async with AsyncExitStack() as stack:
            await appliance.open_files(stack)
            # Behind all components, and before the files close that their last turns use.
            stack.push_async_callback(self._end_tasks)
            server = self._server()
            for name, component in appliance.components():
                self._start(component.run(), name)
                stack.push_async_callback(component.stop)
            self._start(server.serve(sockets=[self.listener]), "http")
            stack.push_async_callback(self._stop_http, server)
            self._start(self._watchdog(), "watchdog")
            self._announce_address()
            await self._until(self._ready())
            await self._until(self.stopping.wait())
            systemd.notify("STOPPING=1")
            await self._drain()
        logger.info("stopped")

    async def _end_tasks(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _drain(self) -> None:
        """Take on nothing more, give kept work back, and let live requests finish."""
        appliance = self.appliance
        await appliance.batcher.stop()
        await appliance.dispatcher.stop()
        if appliance.mqtt is not None:
            await appliance.mqtt.stop()
        logger.info("stopping: %d live requests may finish", appliance.service.live)
        await appliance.service.drain(DRAIN_SECONDS)

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
        """Every model has loaded, or has failed to; the default one must load if it is here."""
        runners = self.appliance.runners
        for runner in runners.values():
            await runner.loaded.wait()
        default = runners.get(self.config.models.default)
        if default is not None and default.facts is None and default.error is not None:
            raise default.error
        systemd.notify(f"READY=1\nSTATUS=serving {', '.join(runners)}")
        logger.info("ready")

    def _server(self) -> Server:
        return Server(
            uvicorn.Config(
                self.appliance.http(),
                http=bounded(self.config.limits.max_connections),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=2,
                server_header=False,
            )
        )

    async def _stop_http(self, server: Server) -> None:
        server.should_exit = True
        for task in self.tasks:
            if task.get_name() == "http":
                await asyncio.gather(task, return_exceptions=True)

    async def _watchdog(self) -> None:
        """Tell systemd that the loop turns. Hung workers are the runners' business: they replace
        them, and a runner that dies ends the daemon."""
        interval = systemd.watchdog_seconds()

        async def ping() -> None:
            systemd.notify("WATCHDOG=1")

        await Loop("watchdog", ping, tick=(interval or 60) / 3).run()

    def _announce_address(self) -> None:
        host, port = self.listener.getsockname()[:2]
        logger.info("edge %s listens on http://%s:%d", __version__, host, port)
        if not is_loopback(host):
            logger.warning("anyone who reaches %s can use the models: there are no keys", host)
