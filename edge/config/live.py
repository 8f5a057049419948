"""Which keys of the configuration a running daemon takes over when it reads it anew, and which have
to wait for a restart. Pure.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.config.section import Section
from edge.config.tree import Config

LIVE = (
    *("auth", "http.allow_ips"),
    *("limits.max_waiting", "limits.max_wait_seconds", "limits.default_max_tokens"),
    *("limits.max_connections", "limits.max_connections_per_address", "limits.max_memory_mb"),
    *("routes", "routing", "upstreams", "chains", "cache.ttl_seconds", "heat", "power"),
)
"""Keys, or whole sections. All others are built into what runs: sockets, workers, files, sizes."""


class Reloads(msgspec.Struct, frozen=True):
    """How the configuration in force came about.

    at: epoch seconds of the last time that it was read anew, None for never. needs_restart: keys
    that the file has changed since the start and that are not in force. error: why the file was
    refused the last time, and changed nothing.
    """

    at: float | None = None
    needs_restart: list[str] = []
    error: str | None = None


def merged(running: Config, read: Config) -> Config:
    """What is in force after `read` was taken over as far as that can be done live."""
    for key in LIVE:
        section, _, name = key.partition(".")
        value = getattr(read, section)
        if name:
            before = getattr(running, section)
            value = msgspec.structs.replace(before, **{name: getattr(value, name)})
        running = msgspec.structs.replace(running, **{section: value})
    return running


def changed(before: Config, after: Config) -> list[str]:
    """The keys in which the two differ, as `engine.slots` or `routes.NAME`."""
    return _changed(before, after, "")


def is_live(key: str) -> bool:
    return any(key == live or key.startswith(f"{live}.") for live in LIVE)


def _changed(before: Any, after: Any, place: str) -> list[str]:
    if before == after:
        return []
    if type(before) is type(after) and isinstance(before, Section):
        names = [field.name for field in msgspec.structs.fields(before)]
        pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    elif isinstance(before, dict) and isinstance(after, dict):
        pairs = [(name, before.get(name), after.get(name)) for name in {**before, **after}]
    else:
        return [place]
    prefix = f"{place}." if place else ""
    return [key for name, old, new in pairs for key in _changed(old, new, f"{prefix}{name}")]
