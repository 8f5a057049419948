"""What a kept answer of a model here belongs to: the files that made it."""

from __future__ import annotations

import os
from pathlib import Path

import families
from adapters import write_adapter

from edge.config.doors import Limits
from edge.config.machine import Heat, Power
from edge.config.models import Engine
from edge.fleet.fleet import Fleet
from edge.fleet.installed import InstalledModels
from edge.fleet.rules import Rules
from edge.heat.governor import Governor
from edge.host.sensors import Sensors
from edge.local import LocalModel
from edge.metrics import Metrics


def identity(state: Path, name: str, scale: float = 1.0) -> str:
    metrics = Metrics()
    source = InstalledModels(state, Engine(), metrics, {"formal": scale})
    fleet = Fleet(source, Rules(), metrics, lambda: None)
    heat = Governor(Heat(), Power(), Sensors(state), metrics, fleet.keep_pace)
    return LocalModel(name, fleet, Limits(), metrics, heat).identity


def test_both_files_count(tmp_path: Path) -> None:
    """Another file of either, or another strength, is another model."""
    models = tmp_path / "models"
    models.mkdir()
    base = families.write(models / "press.gguf", "tinyllama")
    adapter = write_adapter(models / "formal.gguf", base)
    seen = [identity(tmp_path, "press")]
    seen += [identity(tmp_path, "press+formal", scale) for scale in (1.0, 0.5)]
    for path in (adapter, base):
        os.utime(path, (1, 1))
        seen.append(identity(tmp_path, "press+formal"))
    assert len(set(seen)) == 5
    assert identity(tmp_path, "press+formal") == seen[-1]
