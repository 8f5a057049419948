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
from contextlib import AsyncExitStack, closing
from typing import Any

import uvicorn
import uvloop

from edge import __version__
from edge.api.http.connection import bounded
from edge.appliance import Appliance
from edge.config.place import state_dir
from edge.config.tree import Config, is_loopback
from edge.fleet.installed import InstalledModels
from edge.host import systemd
from edge.loops import Loop
from edge.metrics import Metrics
from edge.startup import check_chains, listen, open_first

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
    metrics = Metrics()
    models = config.models
    scales, drafts = models.adapter_scale, models.drafts
    source = InstalledModels(state_dir(), config.engine, metrics, scales, drafts)
    with closing(source) as installed:
        open_first(config, installed)
        appliance = Appliance(config, installed, metrics)
        check_chains(config, appliance.onnx.names())
        listener = listen(config.http.host, config.http.port)
        uvloop.run(Daemon(appliance, listener).run())
    return 0


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the daemon decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Daemon:
    """Owns all tasks. `run` returns after a signal, and raises when a task failed."""

    def __init__(self, appliance: Appliance, listener: socket.socket) -> None:
        self.config = appliance.config
        self.listener = listener
        self.appliance = appliance
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
        """All that load at the start have loaded, or have failed to; the default one must load if
        it is here."""
        fleet = self.appliance.fleet
        await fleet.started.wait()
        names = fleet.rules.at_start
        default = fleet.find(self.config.models.default)
        if default is not None and default.name in names and default.error is not None:
            raise default.error
        systemd.notify(f"READY=1\nSTATUS=serving {', '.join(names)}")
        logger.info("ready")

    def _server(self) -> Server:
        config = uvicorn.Config(
            self.appliance.http(),
            http=bounded(self.config.limits.max_connections),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
            server_header=False,
        )
        if self.appliance.tls is not None:
            config.load()
            # uvicorn makes one of its own of file names, which nobody can renew.
            config.ssl = self.appliance.tls.context
        return Server(config)

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
        scheme = "http" if self.appliance.tls is None else "https"
        logger.info("edge %s listens on %s://%s:%d", __version__, scheme, host, port)
        gate = self.appliance.gate
        if not gate.required and not is_loopback(host):
            logger.warning("anyone who reaches %s can use the models: auth.required is false", host)
        if gate.required and gate.keyring.empty:
            logger.warning("there are no keys yet, so all requests are refused: edge keys add NAME")
