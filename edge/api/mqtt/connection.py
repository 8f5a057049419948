"""The connection to the broker as the rest of the door sees it: there, or not there.

It is made again and again, with growing delays and jitter, and quietly: a broker that is away
costs one line in the log every 30 s and hinders nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from paho.mqtt.enums import MQTTProtocolVersion

from edge.api.mqtt.link import Disconnected, Link, Options
from edge.loops import Backoff
from edge.metrics import Metrics
from edge.types import BrokerFacts

logger = logging.getLogger(__name__)

V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

QUIET_SECONDS = 30.0
CHECK_SECONDS = 5.0
HANG_UPS = 3
"""In a row, before the other version of MQTT is tried."""


class Connection:
    """`run` it in a task. connected: called each time that a link is there."""

    def __init__(
        self,
        options: Options,
        subscriptions: list[str],
        metrics: Metrics,
        connected: Callable[[Link], Awaitable[None]],
    ) -> None:
        self._options = options
        self._subscriptions = subscriptions
        self._metrics = metrics
        self._connected = connected
        self._version = V5
        self._hang_ups = 0
        self._stopping = asyncio.Event()
        self._told_at = float("-inf")
        settings = options.settings
        self.facts = BrokerFacts(settings.host, settings.port)
        self.link: Link | None = None
        """None while there is no connection."""

    async def run(self) -> None:
        backoff = Backoff(first=0.25, cap=30.0)
        while not self._stopping.is_set():
            before = self.facts.connects
            try:
                await self._one_link()
            except (Disconnected, OSError) as error:
                self._tell(error)
            if self.facts.connects > before:
                backoff.reset()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff.next())

    async def stop(self) -> None:
        """Disconnect cleanly: no will, and the broker keeps our messages until we come back."""
        self._stopping.set()
        if self.link is not None:
            await self.link.close()

    async def _one_link(self) -> None:
        """Connect and stay until the connection is over, then raise why. Raises `OSError` where
        the certificate authorities cannot be read."""
        link = Link(self._options, self._version)
        try:
            await link.open(self._subscriptions)
            self._enter(link)
            await self._connected(link)
            while not link.closed.done():
                await asyncio.wait({link.closed}, timeout=CHECK_SECONDS)
                if not link.alive:
                    break
        finally:
            self._leave(link)
        if not self._stopping.is_set():
            raise Disconnected(link.closed.result() if link.closed.done() else "the thread died")

    def _enter(self, link: Link) -> None:
        self.link = link
        facts = self.facts
        facts.connects += 1
        facts.version, facts.reason = "5" if link.is_v5 else "3.1.1", None
        facts.since = time.time()
        self._metrics.mqtt_connected.set(1)
        logger.info(
            "connected to the broker at %s:%d, MQTT %s", facts.host, facts.port, facts.version
        )
        self._told_at = float("-inf")

    def _leave(self, link: Link) -> None:
        # A broker that knows only 3.1.1 refuses 5 with a code, or hangs up, as one does that stops.
        self._hang_ups = self._hang_ups + 1 if link.hung_up else 0
        if link.refused_version or self._hang_ups >= HANG_UPS:
            self._version, self._hang_ups = V311 if link.is_v5 else V5, 0
        self.link = None
        if self.facts.version is not None:
            self.facts.version, self.facts.since = None, time.time()
        self._metrics.mqtt_connected.set(0)
        if not link.closed.done():
            link.abandon()

    def _tell(self, error: Exception) -> None:
        self.facts.reason = str(error)
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= QUIET_SECONDS:
            self._told_at = now
            logger.warning("no broker at %s:%d: %s", self.facts.host, self.facts.port, error)
