"""Everything that the daemon consists of, wired together and not yet running.

fleet, onnx models, upstreams ──► service ──► dispatcher ──► batches, webhooks, HTTP, MQTT
                                     ▲             │
                      cache, reports ┘             └ ledger (store)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastapi import FastAPI

from edge.access.gate import Gate
from edge.access.keyring import Keyring
from edge.access.meter import Meter
from edge.access.networks import Networks
from edge.access.own import OwnKey
from edge.access.watch import KeyWatch
from edge.answers.cache import AnswerCache
from edge.answers.similar import SimilarAnswers
from edge.api.http.app import make_app
from edge.api.http.durable import DurableDoor
from edge.api.http.errors import refusal
from edge.api.http.webhooks import Webhooks, read_secret
from edge.api.mqtt.door import MqttDoor
from edge.audit.audit import Audit
from edge.audit.folder import Folder
from edge.batches.batcher import Batcher
from edge.books import Books
from edge.chains.chains import Chains
from edge.cloud.throttle import Throttle
from edge.cloud.upstreams import Upstreams
from edge.config.place import state_dir
from edge.config.tree import Config, doors_with_keys
from edge.energy.accountant import Accountant
from edge.fleet.exchange import Exchange
from edge.fleet.fleet import Fleet
from edge.fleet.installed import InstalledModels
from edge.host import memory
from edge.inference.embedder import Embedder
from edge.inference.models import onnx_models
from edge.jobs.backlog import BacklogReader
from edge.jobs.dispatcher import Dispatcher
from edge.jobs.kinds import Kinds
from edge.metrics import Metrics
from edge.service import Service
from edge.startup import rules, tls_of
from edge.store.answers import Answers
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.files import Files
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.store.reports import Reports
from edge.store.schema import MIGRATIONS
from edge.store.usage import UsageTable
from edge.switching.switches import Switches
from edge.sync.reporter import Reporter

logger = logging.getLogger("edge")

MB = 1024 * 1024


class Runs(Protocol):
    """A component with a task of its own."""

    def run(self) -> Coroutine[Any, Any, None]: ...

    def stop(self) -> Awaitable[None]: ...


class Component(NamedTuple):
    name: str
    runs: Runs


class Appliance:
    """Made once from the configuration and the installed models. Opens and starts nothing."""

    def __init__(self, config: Config, installed: InstalledModels, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        state = state_dir()
        rate = config.sync.max_kbps
        throttle = None if rate is None else Throttle(rate)
        self.answers = Answers(state / "cache.sqlite", int(config.cache.max_mb * MB))
        self.reports = Reports(state / "reports.sqlite")
        self.reporter = Reporter(self.reports, config.sync, config.device, self.metrics, throttle)
        self.energy = installed.energy = Accountant()
        self.fleet = Fleet(installed, rules(config), metrics, memory.available_bytes)
        self.onnx = onnx_models(config, state / "models", metrics)
        self.onnx.runner.energy = self.energy
        loader = self.onnx.loader
        loader.room = self.fleet.share(loader.claim, loader.make_way)
        for name in sorted({*self.onnx.names()} & {*self.fleet.names()}):
            logger.warning("%s is a file and a folder: /v1 asks the file, /v2 the folder", name)
        self.cache = self._answer_cache()
        self.upstreams = Upstreams(config.upstreams, self.metrics, throttle)
        self.database = Database(state / "jobs.sqlite", MIGRATIONS)
        self.gate = Gate(
            Keyring(state / "keys"),
            required=doors_with_keys(config),
            meter=Meter(UsageTable(self.database)),
            own=OwnKey(state / "keys"),
            networks=Networks(config.http.allow_ips),
        )
        self.audit: Audit | None = None
        if config.audit.enabled:
            self.audit = Audit(Folder(state), config.audit, metrics)
        self.tls = tls_of(config, state)
        reporter = self.reporter if config.sync.report_url else None
        self.service = Service(
            config,
            self.fleet,
            self.onnx,
            Books(metrics, self.gate.meter, reporter, self.audit, self.energy),
            upstreams=self.upstreams,
            cache=self.cache if config.cache.enabled else None,
        )
        self.chains = Chains(self.service)
        self.switches = Switches(installed.store, Exchange(self.fleet), config.switching)
        self._wire_ledger(state)

    async def open_files(self, stack: AsyncExitStack) -> None:
        """Raises `StoreInUse`, `StoreTooNew`, `StoreFull` and `StoreBroken`."""
        if self.gate.own is not None and "http" in self.gate.required:
            self.gate.own.write()
        await stack.enter_async_context(self.database)
        await self.gate.meter.restore()
        if self.audit is not None:
            self.audit.open()
        await self.files.open()
        if self.config.cache.enabled:
            await stack.enter_async_context(self.answers)
        if self.config.sync.report_url:
            await stack.enter_async_context(self.reports)

    def components(self) -> list[Component]:
        """In the order in which they start; they stop in the reverse."""
        components = [Component("memory", self.service.ceiling)]
        components += [Component("usage", self.gate.meter)]
        if self.audit is not None:
            components.append(Component("audit", self.audit))
            components.append(Component("keys", KeyWatch(self.gate.keyring, self.audit)))
        if self.config.cache.enabled:
            components.append(Component("answer cache", self.cache))
        if self.config.sync.report_url:
            components.append(Component("reports", self.reporter))
        components += [Component("models", self.fleet), Component("switches", self.switches)]
        components += [Component("onnx models", self.onnx)]
        components += [Component("sensors", self.service.sensors)]
        components += [Component("updates", self.service.updates)]
        components += [Component("heat", self.service.heat)]
        components += [Component("upstreams", self.upstreams)]
        components += [Component("jobs", self.dispatcher), Component("batches", self.batcher)]
        components += [Component("webhooks", self.webhooks)]
        if self.tls is not None:
            components.append(Component("certificate", self.tls))
        if self.mqtt is not None:
            components.append(Component("mqtt", self.mqtt))
        return components

    def reconfigure(self, config: Config) -> None:
        """Take over what `config/live.py` calls live. No request is dropped: nothing here waits,
        and those that have begun end as they began. Raises `OSError`, and nothing has changed."""
        required = doors_with_keys(config)
        if "http" in required - self.gate.required and self.gate.own is not None:
            self.gate.own.write()
        self.config, self.gate.required = config, required
        self.gate.networks.replace(config.http.allow_ips)
        self.upstreams.replace(config.upstreams)
        self.service.reconfigure(config)
        self.chains.reconfigure(config.chains)
        self.cache.reconfigure(config.cache.ttl_seconds)
        if self.tls is not None:
            self.tls.look()
        self.dispatcher.reopen()

    def stuck(self) -> str | None:
        """The models whose workers were found hung and have not gone; None where there are none."""
        stuck = [runner.name for runner in self.fleet.runners if runner.stuck]
        if self.onnx.runner.stuck:
            stuck.append(self.onnx.runner.name)
        return ", ".join(stuck) or None

    def http(self) -> FastAPI:
        return make_app(
            self.service,
            self.chains,
            self.dispatcher,
            self.files,
            self.batcher,
            self.switches,
            self.backlog,
            self.gate,
        )

    def _answer_cache(self) -> AnswerCache:
        settings, similar = self.config.cache, None
        if (embedder := settings.semantic.model) is not None:
            embed, threshold = Embedder(self.onnx, embedder), settings.semantic.threshold
            similar = SimilarAnswers(self.answers, embedder, embed, threshold)
        return AnswerCache(self.answers, settings.ttl_seconds, self.metrics, similar=similar)

    def _wire_ledger(self, state: Path) -> None:
        queue, metrics = self.config.queue, self.metrics
        metrics.ledger_syncs.set_function(lambda: self.database.commits)
        bounds = Bounds(queue.max_jobs, int(queue.max_mb * MB), queue.when_full)
        ttl = queue.result_ttl_seconds
        ledger = Jobs(self.database, bounds, result_ttl=ttl)
        deliveries = Deliveries(self.database)
        kinds = Kinds(self.service, self.chains)
        attempts = self.config.sync.max_attempts
        self.dispatcher = Dispatcher(ledger, kinds, metrics, attempts, self.audit)
        self.upstreams.watch(self.dispatcher.reopen)
        door = DurableDoor(self.service, self.dispatcher)
        self.webhooks = Webhooks(deliveries, door, read_secret(self.config.webhooks))
        self.dispatcher.watch(self.webhooks.wake)
        most = int(queue.max_files_mb * MB)
        self.files = Files(self.database, state / "files", max_bytes=most, ttl=ttl)
        batches = Batches(self.database, bounds, ttl=ttl)
        self.batcher = Batcher(
            batches, self.files, self.dispatcher, self.service, refusal, self.gate.owner
        )
        self.backlog = BacklogReader(
            ledger, deliveries, batches, bounds, lambda: self.reporter.pending
        )
        self.mqtt: MqttDoor | None = None
        if self.config.mqtt.enabled:
            self.mqtt = MqttDoor(
                self.service,
                self.chains,
                self.dispatcher,
                ledger,
                deliveries,
                self.backlog,
                self.gate,
            )
