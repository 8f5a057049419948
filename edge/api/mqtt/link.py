"""One connection to the broker, from CONNECT to its end: paho on one side, futures on the other.

paho reads and writes in a thread of its own, and what it has to say is handed to the event loop.
A link is never used again; what was not acknowledged in it is forgotten, because the broker and
the ledger both know better.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.api.mqtt.handover import Handover
from edge.api.mqtt.message import Incoming, incoming
from edge.config.doors import Mqtt

logger = logging.getLogger(__name__)

KEEPALIVE = 30
CONNECT_SECONDS = 15.0
ACK_SECONDS = 30.0
SESSION_SECONDS = 7 * 24 * 3600
"""How long the broker keeps what it has for an appliance that is away."""

RECEIVE_MAXIMUM = 64
"""Messages that the broker sends before the first of them is acknowledged."""

LARGEST_PACKET = 64 * 1024 * 1024
MOST_PACKET = 2**28 - 1
NEW_SUBSCRIPTIONS_ONLY = 1
"""Retained messages come once, and not with every connection."""

Received = Callable[["Link", Incoming], None]


class Disconnected(Exception):
    """There is no connection to the broker, or it was lost before the broker acknowledged."""


class Refused(Exception):
    """The broker does not take this message, or not from us; to send it again is of no use."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a link needs to know. will: topic and payload. limit: bytes of a payload kept."""

    settings: Mqtt
    client_id: str
    will: tuple[str, bytes]
    limit: int
    handover: Handover
    received: Received
    """Called in the event loop; has to see to `handover.give_back`."""


class Client(mqtt.Client):
    """paho hangs up at a message that it cannot read, and the broker sends it again with the next
    connection, and so on. For such it takes U+FEFF in a property, which MQTT 5 allows (1.5.4-3), so
    that any caller could keep an appliance away from its broker."""

    on_unreadable: Callable[[mqtt.MQTTMessage], None]
    """Has to acknowledge it in time, like any other."""

    def _handle_publish(self) -> MQTTErrorCode:
        try:
            return super()._handle_publish()
        except MalformedPacket:
            packet, qos = bytes(self._in_packet["packet"]), self._in_packet["command"] >> 1 & 3
            end = 2 + int.from_bytes(packet[:2], "big")
            if qos not in (0, 1) or len(packet) < end + 2:
                raise
            number = int.from_bytes(packet[end : end + 2], "big") if qos else 0
            message = mqtt.MQTTMessage(number, packet[2:end])
            message.qos = qos
            self.on_unreadable(message)
            return MQTTErrorCode.MQTT_ERR_SUCCESS


class Link:
    """Made and used in the event loop. `closed` holds the reason once it is over."""

    def __init__(self, options: Options, version: MQTTProtocolVersion) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._version = version
        self.refused_version = False
        self.hung_up = False
        """It was reached and ended without an answer to CONNECT."""

        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._acks: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._thread: threading.Thread | None = None
        self._client = self._make_client()

    @property
    def is_v5(self) -> bool:
        return self._version == MQTTProtocolVersion.MQTTv5

    @property
    def alive(self) -> bool:
        """False where paho's thread has ended, for whatever reason."""
        return self._thread is not None and self._thread.is_alive()

    async def open(self, subscriptions: list[str]) -> None:
        """Raises `Disconnected` with the reason when the broker cannot be reached or refuses."""
        threading.Thread(target=self._connect, name="mqtt connect", daemon=True).start()
        ends: set[asyncio.Future[Any]] = {self.opened, self.closed}
        await asyncio.wait(ends, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not self.opened.done():
            raise Disconnected(self.closed.result() if self.closed.done() else "no answer")
        await self._subscribe(subscriptions)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        correlation: bytes | None = None,
    ) -> None:
        """With QoS 1, until the broker has acknowledged. Raises `Disconnected` and `Refused`."""
        try:
            info = self._client.publish(topic, payload, 1, retain, self._properties(correlation))
        except ValueError as error:
            raise Refused(str(error)) from None
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # What waits for this must not wait for ever: a new link gets everything again.
            self.abandon()
            raise Disconnected(mqtt.error_string(info.rc))
        for reason in await self._acknowledged(info.mid):
            if reason.is_failure:
                raise Refused(str(reason))

    def publish_once(self, topic: str, payload: bytes, correlation: bytes | None = None) -> None:
        """With QoS 0: it arrives, or it does not."""
        with suppress(ValueError):
            self._client.publish(topic, payload, 0, False, self._properties(correlation))

    def acknowledge(self, message: Incoming) -> None:
        """PUBACK; on a link that is over it does nothing, and the broker sends it again."""
        if message.qos and not self.closed.done():
            self._client.ack(message.number, message.qos)

    async def close(self) -> None:
        """Say good-bye and wait a moment for it to be sent; the broker then sends no will."""
        self._client.disconnect()
        await asyncio.wait({self.closed}, timeout=2.0)
        self._end("closed")

    def abandon(self) -> None:
        """End it and wait for nothing."""
        self._client.disconnect()
        self._end("abandoned")

    async def _subscribe(self, topics: list[str]) -> None:
        """With QoS 1 at most: the broker then sends prompts of QoS 2 as QoS 1, which are
        acknowledged when they are on disk. paho answers QoS 2 before anybody has seen them."""
        options = SubscribeOptions(qos=1, retainHandling=NEW_SUBSCRIPTIONS_ONLY)
        wanted: list[Any] = [(topic, options if self.is_v5 else 1) for topic in topics]
        code, number = self._client.subscribe(wanted)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
            raise Disconnected(mqtt.error_string(code))
        for topic, reason in zip(topics, await self._acknowledged(number), strict=False):
            if reason.is_failure:
                logger.error("the broker does not let us subscribe to %s: %s", topic, reason)

    async def _acknowledged(self, number: int) -> list[ReasonCode]:
        future: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        if self.closed.done():
            raise Disconnected(self.closed.result())
        self._acks[number] = future
        try:
            return await asyncio.wait_for(future, ACK_SECONDS)
        except asyncio.TimeoutError:
            # Nothing good can come of a broker that does not acknowledge: begin anew.
            self.abandon()
            raise Disconnected(f"no acknowledgement within {ACK_SECONDS:.0f} s") from None
        finally:
            del self._acks[number]

    def _properties(self, correlation: bytes | None) -> Properties | None:
        if not self.is_v5:
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "application/json"
        properties.PayloadFormatIndicator = 1
        if correlation is not None:
            properties.CorrelationData = correlation
        return properties

    def _make_client(self) -> mqtt.Client:
        options, settings = self._options, self._options.settings
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if self.is_v5 else False,
            protocol=self._version,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = 5.0
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_unreadable = self._on_unreadable
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.will_set(*options.will, qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, _password(settings.password_file))
        if settings.tls:
            authorities = settings.tls if isinstance(settings.tls, str) else None
            client.tls_set_context(ssl.create_default_context(cafile=authorities))
        return client

    # --- In paho's thread -----------------------------------------------------------------------

    def _connect(self) -> None:
        settings, known = self._options.settings, set(threading.enumerate())
        try:
            if self.is_v5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = SESSION_SECONDS
                properties.ReceiveMaximum = RECEIVE_MAXIMUM
                largest = max(LARGEST_PACKET, 4 * self._options.limit)
                properties.MaximumPacketSize = min(MOST_PACKET, largest)
                self._client.connect(
                    settings.host,
                    settings.port,
                    KEEPALIVE,
                    clean_start=False,
                    properties=properties,
                )
            else:
                self._client.connect(settings.host, settings.port, KEEPALIVE)
            if self.closed.done():  # it has taken too long
                self._client.disconnect()
                return
            self.hung_up = True
            self._client.loop_start()
        except Exception as error:
            self._post(self._end, str(error) or repr(error))
            return
        # paho does not say when its thread dies of an error: it is watched (see `alive`).
        name = f"paho-mqtt-client-{self._options.client_id}"
        threads = {one for one in threading.enumerate() if one.name == name} - known
        self._thread = next(iter(threads), None)

    def _on_socket_open(self, *arguments: Any) -> None:
        # Else a reply stays here until the broker's kernel has acknowledged the PUBACK before it,
        # which that puts off, for 40 ms on Linux (RFC 1122, sections 4.2.3.4 and 4.2.3.2).
        connection: socket.socket = arguments[2]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, *arguments: Any) -> None:
        reason: ReasonCode = arguments[3]
        self.hung_up = False
        if reason.is_failure:
            self.refused_version = reason == "Unsupported protocol version"
            self._post(self._end, f"the broker refuses: {reason}")
        else:
            self._post(self._opened)

    def _on_disconnect(self, *arguments: Any) -> None:
        self._post(self._end, str(arguments[3]))

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._hand_over(message)

    def _on_unreadable(self, message: mqtt.MQTTMessage) -> None:
        self._hand_over(message, readable=False)

    def _hand_over(self, message: mqtt.MQTTMessage, *, readable: bool = True) -> None:
        try:
            found = incoming(message, self._options.limit, readable=readable)
        except UnicodeDecodeError:
            self._client.ack(message.mid, message.qos)  # or it would take a place for ever
            return
        if self._options.handover.take(len(found.payload)):
            self._post(self._options.received, self, found)

    def _on_publish(self, *arguments: Any) -> None:
        number, reason = arguments[2], arguments[3]
        self._post(self._note_ack, number, [reason])

    def _on_subscribe(self, *arguments: Any) -> None:
        number, reasons = arguments[2], arguments[3]
        self._post(self._note_ack, number, reasons)

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the event loop has been closed
            self._loop.call_soon_threadsafe(call, *arguments)

    # --- In the event loop ----------------------------------------------------------------------

    def _opened(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _end(self, reason: str) -> None:
        if self.closed.done():
            return
        self.closed.set_result(reason)
        for future in self._acks.values():
            if not future.done():
                future.set_exception(Disconnected(reason))

    def _note_ack(self, number: int, reasons: list[ReasonCode]) -> None:
        future = self._acks.get(number)
        if future is not None and not future.done():
            future.set_result(reasons)


def _password(file: str | None) -> str | None:
    """Raises `Disconnected`: the file may yet come."""
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Disconnected(f"mqtt.password_file: {error}") from None
