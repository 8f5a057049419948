"""Heat and power as metrics, brought up to date when somebody looks at them."""

from __future__ import annotations

import math

from edge.host.sensors import HostFacts
from edge.metrics import Metrics


def measure(facts: HostFacts, metrics: Metrics) -> None:
    """A sensor that is there and cannot be read is NaN, and one that is not there is left out."""
    metrics.temperature.clear()
    for name, zone in (facts.temperatures or {}).items():
        metrics.temperature.labels(name).set(_known(zone.celsius))
    metrics.power.clear()
    for rail, watts in (facts.power.rails if facts.power else {}).items():
        metrics.power.labels(rail).set(_known(watts))
    metrics.energy.set(facts.power.joules if facts.power else None)
    metrics.rails_energy.set_all(facts.power.rails_joules if facts.power else {})


def _known(value: float | None) -> float:
    return math.nan if value is None else value
