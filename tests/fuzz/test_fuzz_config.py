"""Whatever is in the configuration file, it is read or refused with one line: nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml
from duration import rounds
from mutator import broken, mutated

from edge.config import reader
from edge.errors import ConfigError

SEED: dict[str, Any] = {
    "device": {"id": "press-07", "site": "plant a"},
    "http": {"host": "127.0.0.1", "port": 8080, "tls": False, "allow_ips": ["10.0.0.0/8"]},
    "auth": {"required": "auto"},
    "mqtt": {"enabled": True, "host": "localhost", "port": 1883, "root": "edge", "tls": None},
    "models": {"default": "m", "preload": ["m"], "pinned": None, "memory_mb": 1000},
    "engine": {"backend": "auto", "slots": 4, "context": 512, "kv_type": "f16"},
    "routes": {"assistant": ["local:m", ["cloud:far", "local:n"]]},
    "upstreams": {"far": {"base_url": "https://far/v1", "timeouts": {"connect": 3}, "retries": 1}},
    "chains": {
        "report": {"see": "parts", "prompt": "{{ labels }} {{ line }}", "fields": {"line": 1}}
    },
    "cache": {"enabled": True, "semantic": {"model": None, "threshold": 0.9}},
    "queue": {"max_jobs": 10, "when_full": "reject"},
    "limits": {"max_waiting": 64, "max_memory_mb": "auto", "max_connections": 10},
    "sync": {"report_url": None, "batch": 200},
}
FLAVOURS = (
    "&a ",
    "*a",
    "<<: *a",
    "!!python/object:os.system ",
    "!!binary ",
    "? ",
    "%YAML 1.1\n---\n",
)
"""What YAML has beside JSON."""

VARIABLES = ("EDGE_HTTP__PORT", "EDGE_LIMITS__MAX_WAITING", "EDGE_ROUTES__A", "EDGE_X__Y", "EDGE_A")


def text(chance: random.Random) -> bytes:
    value = mutated(chance, SEED) if chance.random() < 0.8 else SEED
    flow = chance.random() < 0.3
    dumped = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=chance.random() < 0.5)
    if chance.random() < 0.3:
        at = chance.randrange(len(dumped))
        dumped = dumped[:at] + chance.choice(FLAVOURS) + dumped[at:]
    raw = dumped.encode("utf-8", "surrogatepass")
    return broken(chance, raw) if chance.random() < 0.5 else raw


def test_configurations(tmp_path: Path) -> None:
    """Of a file and of the environment."""
    file = tmp_path / "edge.yaml"
    accepted = refused = 0
    for chance in rounds(60):
        file.write_bytes(raw := text(chance))
        environ = {}
        if chance.random() < 0.3:
            value = broken(chance, b"[1, {a: b}]").decode("utf-8", "replace").replace("\0", "")
            environ[chance.choice(VARIABLES)] = value
        try:
            reader.load(str(file), environ)
            accepted += 1
        except ConfigError:
            refused += 1
        except Exception as bug:
            raise AssertionError(f"{type(bug).__name__} of {raw!r} and {environ}") from bug
    print(f"{accepted} configurations accepted, {refused} refused")  # noqa: T201
    assert accepted
    assert refused
