"""Where the machine's trees hang that board, heat and power are read from: `/`, or a recording."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def host_root(environ: Mapping[str, str] = os.environ) -> Path:
    """`$EDGE_HOST_ROOT` shows another machine to `edge serve` and `edge doctor`: a recorded one."""
    return Path(environ.get("EDGE_HOST_ROOT") or "/")
