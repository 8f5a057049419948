"""How long the fuzzers go on: a little in the everyday tests, long in `./scripts/soak fuzz`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

LONG = bool(os.environ.get("SOAK_FUZZ_SECONDS"))

LEAST = 300
"""Rounds that are made whatever time they take."""


def rounds(least: int = LEAST) -> Iterator[random.Random]:
    """A `Random` for each round. The short form always makes the same; the long one goes on for
    SOAK_FUZZ_SECONDS, and SOAK_FUZZ_SEED has it begin where an earlier one found something."""
    seconds = float(os.environ.get("SOAK_FUZZ_SECONDS") or 0)
    seed = int(os.environ.get("SOAK_FUZZ_SEED") or (time.time_ns() if seconds else 0))
    end = time.monotonic() + seconds
    number = 0
    while number < least or time.monotonic() < end:
        yield random.Random(seed + number)
        number += 1
    print(f"{number} rounds from seed {seed}")  # noqa: T201
