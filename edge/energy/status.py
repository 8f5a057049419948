"""Who has used how much energy, for those who look after the appliance: status and metrics."""

from __future__ import annotations

import msgspec

from edge.energy.accountant import Accountant
from edge.metrics import Metrics


class ModelEnergyFacts(msgspec.Struct):
    """joules_per_token: of those that it generated, their prompts included; None where there are
    none."""

    joules: float
    joules_per_token: float | None


class EnergyFacts(msgspec.Struct):
    """Since the daemon's start, in joules. requests: of what was computed for them. unshared: used
    while nothing was."""

    requests: float
    unshared: float
    models: dict[str, ModelEnergyFacts]


def facts_of(energy: Accountant) -> EnergyFacts | None:
    """None while nothing was measured."""
    if not energy.known:
        return None
    models = {
        name: ModelEnergyFacts(round(model.joules, 3), _rounded(model.joules_per_token))
        for name, model in energy.models.items()
    }
    return EnergyFacts(round(energy.shared, 3), round(energy.unshared, 3), models)


def measure(energy: Accountant, metrics: Metrics) -> None:
    """Left out while nothing was measured."""
    metrics.energy_unshared.set(energy.unshared if energy.known else None)
    metrics.models_energy.set_all({name: one.joules for name, one in energy.models.items()})


def _rounded(joules: float | None) -> float | None:
    return None if joules is None else round(joules, 4)
