"""What makes a measurement on this machine less than it looks."""

from __future__ import annotations

import os
from collections.abc import Iterator

from edge.cli import options
from edge.cli.client import Client
from edge.config.tree import Config
from edge.errors import EdgeError


def disturbances(config: Config) -> Iterator[str]:
    """One line for each: other work on the machine, a daemon of this configuration."""
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > processors / 2:
        yield f"the machine is busy: a load of {load:.1f} on {processors} processors"
    if config.http.port == 0:
        return
    try:
        with Client(options.daemon_url(config)) as client:
            models = client.status().models
    except EdgeError:
        return
    running = sum((model.stats or {}).get("running", 0) for model in models)
    busy = f" and computes {running} requests" if running else ""
    yield f"a daemon runs here{busy}; stop it for figures that can be trusted"
