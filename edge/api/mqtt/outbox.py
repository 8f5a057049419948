"""Final replies: published from the ledger until the broker has acknowledged each.

What is owed stands in the ledger, not here. So a broker that is away, or a daemon that dies
between the publication and the acknowledgement, means that a reply comes later, or twice with
the same bytes, and never that it is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time

from edge.api.mqtt import reply
from edge.api.mqtt.connection import Connection
from edge.api.mqtt.link import Disconnected, Link, Refused
from edge.errors import JobNotFound
from edge.loops import Loop, delay_after
from edge.metrics import Metrics
from edge.store.deliveries import Deliveries, Delivery

logger = logging.getLogger(__name__)

TICK = 1.0
AT_ONCE = 32
FIRST_RETRY, LONGEST_RETRY = 5.0, 3600.0
MOST_ATTEMPTS = 8
"""For replies that the broker refuses; those that do not reach it are tried for ever."""


class Outbox:
    """`run` it in a task; `wake` when a job may have ended, or the connection is back."""

    def __init__(self, deliveries: Deliveries, connection: Connection, metrics: Metrics) -> None:
        self._deliveries = deliveries
        self._connection = connection
        self._metrics = metrics
        self._taken: set[str] = set()
        """What the broker has, and the ledger could not be told of yet: its disk may be full."""

        self._loop = Loop("mqtt replies", self.flush, tick=TICK)

    def wake(self) -> None:
        self._loop.wake()

    async def run(self) -> None:
        await self._loop.run()

    def stop(self) -> None:
        self._loop.stop()

    async def flush(self) -> None:
        """Publish all that is due, some at a time, as long as there is a connection."""
        while (link := self._connection.link) is not None:
            due = await self._deliveries.due("mqtt", time.time(), AT_ONCE)
            sent = await asyncio.gather(*(self._deliver(link, one) for one in due))
            if len(due) < AT_ONCE or not all(sent):
                return

    async def _deliver(self, link: Link, delivery: Delivery) -> bool:
        """False if the connection was lost meanwhile."""
        target = reply.decode_target(delivery.target)
        payload = reply.outcome(
            target,
            delivery.state,
            delivery.result,
            delivery.error_code,
            delivery.error_message,
        )
        try:
            if delivery.id not in self._taken:
                await link.publish(target.topic, payload, correlation=target.correlation)
                self._taken.add(delivery.id)
                self._metrics.mqtt_replies.labels(delivery.state).inc()
            await self._deliveries.delivered(delivery.id)
            self._taken.discard(delivery.id)
        except Disconnected:
            return False
        except Refused as error:
            await self._refused(delivery, target.topic, error)
        except JobNotFound:
            self._taken.discard(delivery.id)
        return True

    async def _refused(self, delivery: Delivery, topic: str, error: Refused) -> None:
        self._metrics.mqtt_replies.labels("refused").inc()
        last = delivery.attempts + 1 >= MOST_ATTEMPTS
        logger.warning(
            "the broker refuses the reply to job %s on %s%s: %s",
            delivery.id,
            topic,
            ", which is given up" if last else "",
            error,
        )
        delay = delay_after(delivery.attempts, FIRST_RETRY, LONGEST_RETRY)
        await self._deliveries.failed(delivery.id, None if last else time.time() + delay)
