"""What operators see of the ONNX models: in `/admin/v1/status`, `edge status` and the metrics."""

from __future__ import annotations

from typing import get_args

import msgspec

from edge.inference.entry import Entry, State
from edge.metrics import Metrics
from edge.runtime.onnx_runner import NAME, OnnxRunner
from edge.tensors import OnnxFacts

STATES: tuple[State, ...] = get_args(State)


class WorkerStatus(msgspec.Struct):
    """The process that all models share. pid: None while no model is loaded. live: inferences that
    were not answered yet, of which so many are computing. promised_bytes: what the models and the
    process were predicted to take; taken_bytes: what is gone for others."""

    pid: int | None
    restarts: int
    live: int
    computing: int
    onnxruntime: str | None
    providers: list[str]
    memory_bytes: int
    taken_bytes: int
    promised_bytes: int


class LoadedStatus(msgspec.Struct):
    """A version that is in memory. users: requests that have it, or wait for it."""

    facts: OnnxFacts
    users: int
    predicted_bytes: int


class OnnxModelStatus(msgspec.Struct):
    """A model folder. state: of the version that is preferred; error: why it is failed."""

    name: str
    task: str | None
    versions: list[int]
    state: State
    error: str | None
    loaded: list[LoadedStatus]


class OnnxStatus(msgspec.Struct):
    worker: WorkerStatus
    models: list[OnnxModelStatus]


def worker_status(runner: OnnxRunner, promised: int) -> WorkerStatus:
    up, stats = runner.up, runner.stats
    return WorkerStatus(
        pid=runner.pid,
        restarts=runner.restarts,
        live=runner.live,
        computing=runner.computing,
        onnxruntime=up.version if up is not None else None,
        providers=up.providers if up is not None else [],
        memory_bytes=stats.memory_bytes if stats is not None else 0,
        taken_bytes=stats.taken_bytes if stats is not None else 0,
        promised_bytes=promised,
    )


def loaded_status(entry: Entry) -> LoadedStatus | None:
    if entry.facts is None:
        return None
    return LoadedStatus(entry.facts, entry.users, entry.promised_bytes)


def measure(status: OnnxStatus, metrics: Metrics) -> None:
    """The gauges, brought up to date when somebody looks at them, behind those of the fleet."""
    for model in status.models:
        for state in STATES:
            metrics.model_state.labels(model.name, state).set(model.state == state)
        for loaded in model.loaded:
            facts = loaded.facts
            metrics.model_info.labels(facts.name, "onnx", facts.provider, "", "").set(1)
    worker = status.worker
    metrics.model_memory.labels(NAME).set(worker.memory_bytes)
    metrics.model_predicted.labels(NAME).set(worker.promised_bytes)
    metrics.model_taken.labels(NAME).set(worker.taken_bytes)
