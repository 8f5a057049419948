"""What the appliance tells of itself: whether it is there, retained; and how it is, every 10 s."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal

from edge import __version__
from edge.api.mqtt.link import Link, Refused
from edge.api.mqtt.topics import Topics
from edge.energy.status import facts_of
from edge.errors import StoreBroken, StoreFull
from edge.host import memory
from edge.jobs.backlog import BacklogReader
from edge.openai import render
from edge.service import Service
from edge.updates.record import Entry

logger = logging.getLogger(__name__)

State = Literal["online", "stopped", "offline"]

TICK = 10.0


class Presence:
    """Owned by the event loop."""

    def __init__(self, topics: Topics, service: Service, backlog: BacklogReader) -> None:
        self._topics = topics
        self._service = service
        self._backlog = backlog
        self._tokens = (time.monotonic(), 0.0)

    def status(self, state: State) -> tuple[str, bytes]:
        """Topic and payload."""
        payload = {"state": state, "version": __version__, "models": self._service.fleet.names()}
        return self._topics.status, render.encode(payload)

    async def tell(self, link: Link, state: State) -> None:
        """Raises `Disconnected`."""
        try:
            await link.publish(*self.status(state), retain=True)
        except Refused as error:
            logger.error("the broker does not take our status: %s", error)

    async def telemetry(self, link: Link, connects: int) -> None:
        """What cannot be read is null."""
        fleet, host = self._service.fleet, self._service.sensors.facts()
        heat = self._service.heat.facts
        stats = [runner.stats for runner in fleet.runners if runner.stats]
        facts: dict[str, Any] = {
            "time": int(time.time()),
            "queue": await self._queue(),
            "live": self._service.live,
            "tokens_per_second": self._speed(),
            "memory": {
                "available_bytes": memory.available_bytes(),
                "total_bytes": memory.total_bytes(),
                "models_bytes": sum(one.memory_bytes for one in stats),
            },
            "temperature_celsius": None
            if host.temperatures is None
            else {name: zone.celsius for name, zone in host.temperatures.items()},
            "throttling": host.throttling,
            "forecast": None
            if host.expected is None
            else {
                "zone": host.expected.zone,
                "throttles_in_seconds": round(host.expected.seconds, 1),
            },
            "heat": {"level": heat.level, "reason": heat.reason, "text": heat.text},
            "power_watts": None if host.power is None else host.power.total,
            "rails_watts": None if host.power is None else host.power.rails,
            "energy_joules": None if host.power is None else host.power.joules,
            "rails_joules": None if host.power is None else host.power.rails_joules,
            "energy": facts_of(self._service.energy),
            "connectivity": {
                "mqtt": "connected",
                "mqtt_connects": connects,
                "upstreams": {
                    one.name: {"state": one.state, "link": one.link}
                    for one in (cloud.facts() for cloud in self._service.clouds)
                },
            },
            "models": {model.name: model.state for model in fleet.models()},
            "version": __version__,
            "update": _update(self._service.updates.last),
            # Whoever keeps it can tell later that nothing was changed that was there by now.
            "audit": None if self._service.audit is None else self._service.audit.head,
        }
        link.publish_once(self._topics.telemetry, render.encode(facts))

    async def _queue(self) -> dict[str, Any] | None:
        try:
            backlog = await self._backlog.read()
        except (StoreBroken, StoreFull):
            return None
        return {
            "queued": backlog.queued,
            "running": backlog.running,
            "oldest_seconds": backlog.oldest_seconds,
        }

    def _speed(self) -> float:
        """Tokens a second since this was last asked."""
        (then, before), now = self._tokens, time.monotonic()
        registry = self._service.metrics.registry
        total = registry.get_sample_value("edge_generation_tokens_total") or 0.0
        self._tokens = (now, total)
        return round((total - before) / max(now - then, 1e-3), 2)


def _update(entry: Entry | None) -> dict[str, Any] | None:
    """The last one: whoever has many machines sees which came through."""
    if entry is None:
        return None
    return {
        "began": int(entry.began.timestamp()),
        "from": entry.before,
        "to": entry.version,
        "outcome": entry.outcome,
    }
