"""The whole tree, and what follows from more than one section of it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from msgspec import Meta, field

from edge.config.answering import Cache, Chain, Route, Routing, Upstream
from edge.config.doors import Auth, Device, Http, Limits, Mqtt, Webhooks
from edge.config.keeping import Audit, Queue, Sync
from edge.config.machine import Heat, Power
from edge.config.models import Engine, Models, Onnx, Switching
from edge.config.section import Name, Section


class Config(Section, frozen=True):
    device: Device = Device()
    http: Http = Http()
    auth: Auth = Auth()
    mqtt: Mqtt = Mqtt()
    models: Models = Models()
    switching: Switching = Switching()
    engine: Engine = Engine()
    onnx: Onnx = Onnx()
    routes: Annotated[
        dict[Name, Route],
        Meta(
            description="A model's name, and what answers for it: `local:MODEL` or "
            "`cloud:UPSTREAM`, in order; of a list within the list the fastest is taken"
        ),
    ] = field(default_factory=dict)
    routing: Routing = Routing()
    upstreams: dict[Name, Upstream] = field(default_factory=dict)
    chains: dict[Name, Chain] = field(default_factory=dict)
    cache: Cache = Cache()
    queue: Queue = Queue()
    sync: Sync = Sync()
    audit: Audit = Audit()
    webhooks: Webhooks = Webhooks()
    limits: Limits = Limits()
    heat: Heat = Heat()
    power: Power = Power()


def targets(config: Config, route: str) -> list[str]:
    """All targets of a route, in order."""
    found: list[str] = []
    for entry in config.routes[route]:
        found += [entry] if isinstance(entry, str) else entry
    return found


def first_models(config: Config) -> list[str]:
    """The model names that the daemon loads at start, the default one first."""
    default = config.models.default
    names = [] if default in config.routes else [default]
    names += [*pinned_models(config), *(config.models.preload or [])]
    for route in config.routes:
        names += [t.removeprefix("local:") for t in targets(config, route) if t[:6] == "local:"]
    return list(dict.fromkeys(names))


def pinned_models(config: Config) -> list[str]:
    """The model names that are never unloaded. A default that is a route pins nothing."""
    models = config.models
    if models.pinned is not None:
        return models.pinned
    return [] if models.default in config.routes else [models.default]


def is_loopback(host: str) -> bool:
    """True when only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def doors_with_keys(config: Config) -> frozenset[Literal["http", "mqtt"]]:
    """The doors at which requests need a key.

    `auto`: those that others than this machine can reach. A broker on loopback is this machine's
    own, and its users and access lists decide.
    """
    required = config.auth.required
    if required == "auto":
        hosts: dict[Literal["http", "mqtt"], str]
        hosts = {"http": config.http.host, "mqtt": config.mqtt.host}
        return frozenset(door for door, host in hosts.items() if not is_loopback(host))
    return frozenset({"http", "mqtt"} if required else ())
