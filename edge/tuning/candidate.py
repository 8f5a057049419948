"""One way to run a model on this machine, and how fast it was."""

from __future__ import annotations

from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from edge.types import EngineSettings

TUNED = ("threads", "batch", "slots", "kv_type")
"""Keys of the configuration's `engine` that are searched, in this order."""


class Candidate(msgspec.Struct, frozen=True):
    """A model file and the settings that its worker gets."""

    path: Path
    settings: EngineSettings

    def varied(self, key: str, value: Any) -> Candidate:
        """The same with another value of one of `TUNED`, or with another file for `weights`."""
        if key == "weights":
            return Candidate(Path(value), self.settings)
        return Candidate(self.path, msgspec.structs.replace(self.settings, **{key: value}))


class Figures(msgspec.Struct, frozen=True):
    """What one round gave, in tokens per second: of a prompt, of one stream, of many at once."""

    prompt: float
    single: float
    crowd: float
    memory_bytes: int

    @property
    def score(self) -> float:
        """The geometric mean: twice as fast at one thing weighs as much as at another."""
        return float(prod((self.prompt, self.single, self.crowd)) ** (1 / 3))


def typical(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    return Figures(
        prompt=median(one.prompt for one in rounds),
        single=median(one.single for one in rounds),
        crowd=median(one.crowd for one in rounds),
        memory_bytes=max(one.memory_bytes for one in rounds),
    )


def choices(base: EngineSettings, slots: int, cores: int, processors: int) -> dict[str, list[Any]]:
    """Values worth a try for each key, without those that the base has already.

    slots: how many the base really has; where the memory decided that, more do not fit.
    cores, processors: physical ones, and with their hyper-threads.
    """
    most_slots = slots if base.slots == 0 else 32
    values: dict[str, list[Any]] = {
        "threads": [n for n in (processors, cores, cores - 1, cores // 2) if n >= 1],
        "batch": [n for n in (1024, 512, 256, 128) if n >= slots],
        "slots": [n for n in (32, 16, 8, 4) if n <= most_slots],
        "kv_type": ["f16", "q8_0", "q4_0"],
    }
    kv_type = "f16" if base.kv_type == "auto" else base.kv_type
    current = {**msgspec.structs.asdict(base), "slots": slots, "kv_type": kv_type}
    return {
        key: [value for value in dict.fromkeys(values[key]) if value != current[key]]
        for key in TUNED
    }
