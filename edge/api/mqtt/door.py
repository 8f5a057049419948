"""The MQTT door: requests in, replies out, and word of how the appliance is.

    broker ─► link (paho's thread) ─► handover ─► intake ─► dispatcher.add ─► PUBACK
    broker ◄─ link ◄─ outbox ◄─ the ledger's deliveries, woken by the dispatcher
                   ◄─ pieces of streams, places in the queue, status, telemetry

Owned by the event loop. A broker that cannot be reached hinders nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from edge.access.gate import Gate
from edge.api.mqtt import reply
from edge.api.mqtt.callers import Callers
from edge.api.mqtt.connection import Connection
from edge.api.mqtt.handover import Handover, Room
from edge.api.mqtt.inboxes import Inboxes
from edge.api.mqtt.intake import Accepted, Intake, Send
from edge.api.mqtt.link import Disconnected, Link, Options, Refused
from edge.api.mqtt.message import Incoming
from edge.api.mqtt.outbox import Outbox
from edge.api.mqtt.presence import TICK, Presence
from edge.api.mqtt.reply import Target
from edge.api.mqtt.topics import Topics
from edge.api.mqtt.waiting import Waiting
from edge.chains.chains import Chains
from edge.jobs.backlog import BacklogReader
from edge.jobs.dispatcher import Dispatcher
from edge.loops import Loop
from edge.service import Service
from edge.store.deliveries import Deliveries
from edge.store.jobs import Jobs
from edge.types import Part

logger = logging.getLogger(__name__)

Arrival = tuple[Link, Incoming, "asyncio.Task[None]"]


class MqttDoor:
    """`run` it in a task; `stop` says good-bye to the broker."""

    def __init__(
        self,
        service: Service,
        chains: Chains,
        dispatcher: Dispatcher,
        ledger: Jobs,
        deliveries: Deliveries,
        backlog: BacklogReader,
        gate: Gate,
    ) -> None:
        config, metrics = service.config, service.metrics
        settings = config.mqtt
        device = config.device.id or "edge"
        self._topics = Topics(settings.root, device, settings.shared_group, settings.reply_allow)
        self._presence = Presence(self._topics, service, backlog)
        limit = int(config.limits.max_body_mb * 1024 * 1024)
        inboxes, find = Inboxes(service, chains), ledger.unfinished_with_key
        has_password = settings.username is not None
        callers = Callers(gate, has_password=has_password, audit=service.audit)
        self._intake = Intake(self._topics, inboxes, dispatcher, callers, find, metrics, limit)
        self._dispatcher = dispatcher
        self._handover = Handover()
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        options = Options(
            settings=settings,
            client_id=f"edge-{device}",
            will=self._presence.status("offline"),
            limit=limit,
            handover=self._handover,
            received=self._received,
        )
        self._connection = Connection(options, self._topics.subscriptions, metrics, self._connected)
        service.broker = self._connection.facts
        self._outbox = Outbox(deliveries, self._connection, metrics)
        self._waiting = Waiting(dispatcher, self._connection)
        self._telemetry = Loop("mqtt telemetry", self._tell_telemetry, tick=TICK)
        self._underway: set[Room] = set()
        self._stopping = False
        dispatcher.watch(lambda _: self._outbox.wake())

    async def run(self) -> None:
        await asyncio.gather(
            self._connection.run(),
            self._acknowledge(),
            self._outbox.run(),
            self._waiting.run(),
            self._telemetry.run(),
        )

    async def stop(self) -> None:
        """Take nothing more, send what is owed and can be sent, publish `stopped`, disconnect."""
        if self._stopping:
            return
        self._stopping = True
        self._handover.close()
        self._waiting.stop()
        self._telemetry.stop()
        self._outbox.stop()
        with suppress(asyncio.TimeoutError, Disconnected):
            await asyncio.wait_for(self._farewell(), 5.0)
        await self._connection.stop()

    async def _farewell(self) -> None:
        await self._arrivals.join()
        await self._outbox.flush()
        if self._connection.link is not None:
            await self._presence.tell(self._connection.link, "stopped")

    async def _connected(self, link: Link) -> None:
        await self._presence.tell(link, "online")
        self._outbox.wake()
        self._telemetry.wake()

    async def _tell_telemetry(self) -> None:
        if self._connection.link is not None:
            await self._presence.telemetry(self._connection.link, self._connection.facts.connects)

    def _received(self, link: Link, message: Incoming) -> None:
        room = Room(self._handover, len(message.payload))
        if self._stopping:  # not acknowledged, so it comes again
            room.give_back()
            return
        send = partial(_send, link, room)
        cancels = self._topics.inlet(message.topic).kind == "cancel"
        work = (
            self._cancel(message, send, set(self._underway))
            if cancels
            else self._prompt(message, send)
        )
        task = asyncio.create_task(work, name=f"mqtt {message.topic}")
        self._underway.add(room)
        # Not when it is acknowledged, which waits for those before it: a reply to one of them may
        # wait for the thread that waits for room.
        task.add_done_callback(lambda _: self._decided(room))
        self._arrivals.put_nowait((link, message, task))

    def _decided(self, room: Room) -> None:
        self._underway.discard(room)
        room.give_back()

    async def _acknowledge(self) -> None:
        """In the order of arrival, as MQTT wants it (4.6.0-2), while the work overlaps."""
        while True:
            link, message, task = await self._arrivals.get()
            try:
                await task
                link.acknowledge(message)
            except Disconnected:
                pass  # what there was to say did not get out: the broker sends the message again
            except Exception:
                # It would fail again, and what is never acknowledged blocks what comes after it.
                logger.exception("a message on %s could not be handled", message.topic)
                link.acknowledge(message)
            finally:
                self._arrivals.task_done()

    async def _cancel(self, message: Incoming, send: Send, earlier: set[Room]) -> None:
        """After what came before it, for the prompt may be on its way to the disk. What is refused
        has given its room back, and only its reply is on its way."""
        for room in earlier:
            await room.given_back.wait()
        await self._intake.cancel(message, send)

    async def _prompt(self, message: Incoming, send: Send) -> None:
        """Raises `Disconnected` when a refusal could not be sent."""
        accepted = await self._intake.prompt(message, send)
        if accepted is not None:
            self._waiting.add(accepted.job.id)
            if accepted.stream:
                self._dispatcher.follow(accepted.job.id, self._sender(accepted))

    def _sender(self, accepted: Accepted) -> Callable[[list[Part]], None]:
        """Publishes pieces of an answer as they come."""
        target = accepted.target

        def heard(parts: list[Part]) -> None:
            link = self._connection.link
            if link is None:
                return
            for part in parts:
                if piece := reply.delta(target.id, part):
                    link.publish_once(f"{target.topic}/delta", piece, target.correlation)

        return heard


async def _send(link: Link, room: Room, target: Target, payload: bytes) -> None:
    # The thread that waits for room is the one that hears the broker's acknowledgement.
    room.give_back()
    try:
        await link.publish(target.topic, payload, correlation=target.correlation)
    except Refused as error:
        logger.warning("the broker refuses a reply on %s: %s", target.topic, error)
