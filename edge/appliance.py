"""Everything that the daemon consists of, wired together and not yet running.

runners, upstreams ──► service ──► dispatcher ──► batches, webhooks, HTTP, MQTT
                          ▲             │
           cache, reports ┘             └ ledger (store)
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastapi import FastAPI

from edge.answers import AnswerCache
from edge.api.http.app import make_app
from edge.api.http.durable import DurableDoor
from edge.api.http.errors import refusal
from edge.api.http.webhooks import Webhooks, read_secret
from edge.api.mqtt.door import MqttDoor
from edge.batches.batcher import Batcher
from edge.cloud.throttle import Throttle
from edge.cloud.upstream import Upstream
from edge.config import Config, state_dir
from edge.jobs.dispatcher import Dispatcher
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner
from edge.service import Service
from edge.startup import engine_settings
from edge.store.answers import Answers
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.files import Files
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.store.reports import Reports
from edge.store.schema import MIGRATIONS
from edge.sync.reporter import Reporter

MB = 1024 * 1024


class Runs(Protocol):
    """A component with a task of its own."""

    def run(self) -> Coroutine[Any, Any, None]: ...

    def stop(self) -> Awaitable[None]: ...


class Component(NamedTuple):
    name: str
    runs: Runs


class Appliance:
    """Made once from the configuration and the models' files. Opens and starts nothing."""

    def __init__(self, config: Config, paths: dict[str, Path]) -> None:
        self.config = config
        self.metrics = Metrics()
        state = state_dir()
        rate = config.sync.max_kbps
        throttle = None if rate is None else Throttle(rate)
        self.answers = Answers(state / "cache.sqlite", int(config.cache.max_mb * MB))
        self.cache = AnswerCache(self.answers, config.cache.ttl_seconds, self.metrics)
        self.reports = Reports(state / "reports.sqlite")
        self.reporter = Reporter(self.reports, config.sync, config.device, self.metrics, throttle)
        self.runners = self._make_runners(paths)
        self.upstreams = {
            name: Upstream(name, settings, self.metrics, throttle)
            for name, settings in config.upstreams.items()
        }
        self.service = Service(
            config,
            self.runners,
            self.metrics,
            upstreams=self.upstreams,
            cache=self.cache if config.cache.enabled else None,
            reporter=self.reporter if config.sync.report_url else None,
        )
        self._wire_ledger(state)

    async def open_files(self, stack: AsyncExitStack) -> None:
        """Raises `StoreInUse`, `StoreTooNew`, `StoreFull` and `StoreBroken`."""
        await stack.enter_async_context(self.database)
        await self.files.open()
        if self.config.cache.enabled:
            await stack.enter_async_context(self.answers)
        if self.config.sync.report_url:
            await stack.enter_async_context(self.reports)

    def components(self) -> list[Component]:
        """In the order in which they start; they stop in the reverse."""
        components = []
        if self.config.cache.enabled:
            components.append(Component("answer cache", self.cache))
        if self.config.sync.report_url:
            components.append(Component("reports", self.reporter))
        components += [Component(f"model {name}", runner) for name, runner in self.runners.items()]
        components += [Component(f"upstream {name}", one) for name, one in self.upstreams.items()]
        components += [Component("jobs", self.dispatcher), Component("batches", self.batcher)]
        components += [Component("webhooks", self.webhooks)]
        if self.mqtt is not None:
            components.append(Component("mqtt", self.mqtt))
        return components

    def http(self) -> FastAPI:
        return make_app(self.service, self.dispatcher, self.files, self.batcher)

    def _make_runners(self, paths: dict[str, Path]) -> dict[str, ModelRunner]:
        settings = engine_settings(self.config)
        return {
            name: ModelRunner(name, path, settings, self.metrics) for name, path in paths.items()
        }

    def _wire_ledger(self, state: Path) -> None:
        queue, metrics = self.config.queue, self.metrics
        self.database = Database(state / "jobs.sqlite", MIGRATIONS)
        metrics.ledger_syncs.set_function(lambda: self.database.commits)
        bounds = Bounds(queue.max_jobs, int(queue.max_mb * MB), queue.when_full)
        ttl = queue.result_ttl_seconds
        ledger = Jobs(self.database, bounds, result_ttl=ttl)
        deliveries = Deliveries(self.database)
        self.dispatcher = Dispatcher(ledger, self.service, metrics)
        for upstream in self.upstreams.values():
            upstream.watch(self.dispatcher.reopen)
        door = DurableDoor(self.service, self.dispatcher)
        self.webhooks = Webhooks(deliveries, door, read_secret(self.config.webhooks))
        self.dispatcher.watch(self.webhooks.wake)
        most = int(queue.max_files_mb * MB)
        self.files = Files(self.database, state / "files", max_bytes=most, ttl=ttl)
        batches = Batches(self.database, bounds, ttl=ttl)
        self.batcher = Batcher(batches, self.files, self.dispatcher, self.service, refusal)
        self.mqtt: MqttDoor | None = None
        if self.config.mqtt.enabled:
            self.mqtt = MqttDoor(self.service, self.dispatcher, ledger, deliveries)
