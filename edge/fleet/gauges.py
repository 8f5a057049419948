"""The gauges of all models, brought up to date when somebody looks at them."""

from __future__ import annotations

from typing import get_args

from edge.fleet.fleet import Fleet
from edge.fleet.model import State
from edge.metrics import Metrics
from edge.runtime.runner import ModelRunner

STATES: tuple[State, ...] = get_args(State)


def measure(fleet: Fleet, metrics: Metrics) -> None:
    models, runners = fleet.models(), fleet.runners
    waiting = sum(runner.waiting for runner in runners)
    metrics.running.set(sum(runner.stats.running for runner in runners if runner.stats))
    metrics.waiting.set(waiting + sum(len(model.waiters) for model in models))
    metrics.model_info.clear()  # of one that was unloaded nothing is left
    metrics.model_state.clear()
    for model in models:
        for state in STATES:
            metrics.model_state.labels(model.name, state).set(model.state == state)
        _measure(model.name, model.runner, metrics)


def _measure(name: str, runner: ModelRunner | None, metrics: Metrics) -> None:
    """All is 0 where the model is not loaded."""
    stats = runner.stats if runner is not None else None
    memory = runner.memory if runner is not None else None
    facts = runner.facts if runner is not None else None
    metrics.model_memory.labels(name).set(stats.memory_bytes if stats else 0)
    metrics.model_predicted.labels(name).set(memory.predicted_bytes if memory else 0)
    metrics.model_taken.labels(name).set(memory.measured_bytes if memory else 0)
    cells = stats.kv_total_tokens if stats else 0  # none in a model that embeds
    metrics.kv_usage.labels(name).set(stats.kv_used_tokens / cells if stats and cells else 0)
    metrics.prefix_entries.labels(name).set(stats.kept_prefixes if stats else 0)
    metrics.prefix_bytes.labels(name).set(stats.kept_bytes if stats else 0)
    if facts is not None:
        metrics.model_info.labels(
            name, facts.architecture, facts.backend, str(facts.gpu_layers), facts.kv_type
        ).set(1)
