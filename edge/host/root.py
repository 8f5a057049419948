"""Where the machine's trees hang that board, heat and power are read from: `/`, or a recording."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def host_root(environ: Mapping[str, str] = os.environ) -> Path:
    """`$EDGE_HOST_ROOT` shows another machine to `edge serve` and `edge doctor`: a recorded one."""
    return Path(environ.get("EDGE_HOST_ROOT") or "/")


def host_speed(environ: Mapping[str, str] = os.environ) -> float:
    """`$EDGE_HOST_SPEED` lets a recorded machine's time go so many times as fast: heat takes
    minutes, which a test has not. A real machine's time is what it is."""
    if not environ.get("EDGE_HOST_ROOT"):
        return 1.0
    return max(1.0, float(environ.get("EDGE_HOST_SPEED") or 1))
