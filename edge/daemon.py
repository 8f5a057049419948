"""`edge serve`: wires everything, starts it in order, stops it in reverse.

    models on disk ─► runners (one worker process each) ─► service ─► HTTP, MQTT
                                                             │
    systemd: READY when every model has answered, WATCHDOG while the loop and its tasks live

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
from edge.answers import AnswerCache
from edge.api.http.app import make_app
from edge.api.http.connection import bounded
from edge.api.http.durable import DurableDoor
from edge.api.http.errors import refusal
from edge.api.http.webhooks import Webhooks, read_secret
from edge.api.mqtt.door import MqttDoor
from edge.batches.batcher import Batcher
from edge.config import Config, is_loopback, state_dir
from edge.host import systemd
from edge.jobs.dispatcher import Dispatcher
from edge.loops import Loop
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner
from edge.service import Service
from edge.startup import engine_settings, listen, model_paths
from edge.store.answers import Answers
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.files import Files
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS

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
        metrics = Metrics()
        settings = engine_settings(config)
        self.runners = {
            name: ModelRunner(name, path, settings, metrics) for name, path in paths.items()
        }
        self.answers = Answers(state_dir() / "cache.sqlite", int(config.cache.max_mb * 1024 * 1024))
        self.cache = AnswerCache(self.answers, config.cache.ttl_seconds, metrics)
        self.service = Service(
            config, self.runners, metrics, cache=self.cache if config.cache.enabled else None
        )
        self.database = Database(state_dir() / "jobs.sqlite", MIGRATIONS)
        bounds = Bounds(
            config.queue.max_jobs, int(config.queue.max_mb * 1024 * 1024), config.queue.when_full
        )
        ledger = Jobs(self.database, bounds, result_ttl=config.queue.result_ttl_seconds)
        metrics.ledger_syncs.set_function(lambda: self.database.commits)
        self.dispatcher = Dispatcher(ledger, self.service, metrics)
        deliveries = Deliveries(self.database)
        self.webhooks = Webhooks(
            deliveries,
            DurableDoor(self.service, self.dispatcher),
            read_secret(config.webhooks),
        )
        self.dispatcher.watch(self.webhooks.wake)
        self.files = Files(
            self.database,
            state_dir() / "files",
            max_bytes=int(config.queue.max_files_mb * 1024 * 1024),
            ttl=config.queue.result_ttl_seconds,
        )
        batches = Batches(self.database, bounds, ttl=config.queue.result_ttl_seconds)
        self.batcher = Batcher(batches, self.files, self.dispatcher, self.service, refusal)
        self.mqtt: MqttDoor | None = None
        if config.mqtt.enabled:
            self.mqtt = MqttDoor(self.service, self.dispatcher, ledger, deliveries)
        self.stopping = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.database)
            await self.files.open()
            if self.config.cache.enabled:
                await stack.enter_async_context(self.answers)
                self._start(self.cache.run(), "answer cache")
                stack.push_async_callback(self.cache.stop)
            for runner in self.runners.values():
                self._start(runner.run(), f"model {runner.name}")
                stack.push_async_callback(runner.stop)
            server = self._server()
            self._start(server.serve(sockets=[self.listener]), "http")
            stack.push_async_callback(self._stop_http, server)
            self._start(self.dispatcher.run(), "jobs")
            stack.push_async_callback(self.dispatcher.stop)
            self._start(self.batcher.run(), "batches")
            stack.push_async_callback(self.batcher.stop)
            self._start(self.webhooks.run(), "webhooks")
            stack.push_async_callback(self.webhooks.stop)
            if self.mqtt is not None:
                self._start(self.mqtt.run(), "mqtt")
                stack.push_async_callback(self.mqtt.stop)
            self._start(self._watchdog(), "watchdog")
            self._announce_address()
            await self._until(self._ready())
            await self._until(self.stopping.wait())
            systemd.notify("STOPPING=1")
            await self.batcher.stop()
            await self.dispatcher.stop()
            if self.mqtt is not None:
                await self.mqtt.stop()
            logger.info("stopping: %d live requests may finish", self.service.live)
            await self.service.drain(DRAIN_SECONDS)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        logger.info("stopped")

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
        for runner in self.runners.values():
            await runner.loaded.wait()
        default = self.runners.get(self.config.models.default)
        if default is not None and default.facts is None and default.error is not None:
            raise default.error
        systemd.notify(f"READY=1\nSTATUS=serving {', '.join(self.runners)}")
        logger.info("ready")

    def _server(self) -> Server:
        return Server(
            uvicorn.Config(
                make_app(self.service, self.dispatcher, self.files, self.batcher),
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
