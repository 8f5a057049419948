"""A program of the factory: it publishes prompts and gathers what comes back."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon_process import PATIENCE, poll
from mosquitto import Mosquitto
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEVICE = "press-07"
CHAT = f"edge/{DEVICE}/chat"
CANCEL = f"edge/{DEVICE}/cancel"
STATUS = f"edge/{DEVICE}/status"
REPLIES = f"edge/{DEVICE}/reply"


@dataclass(frozen=True)
class Heard:
    topic: str
    payload: bytes
    retain: bool
    qos: int
    properties: Any

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def correlation(self) -> bytes | None:
        return getattr(self.properties, "CorrelationData", None)


class Factory:
    """One MQTT client with a network thread; `heard` grows while it lives.

    name: for one whose subscriptions and messages the broker keeps while it is away.
    """

    def __init__(
        self,
        port: int,
        *topics: str,
        version: int = 5,
        name: str = "",
        tls: ssl.SSLContext | None = None,
        **login: str,
    ) -> None:
        self.v5 = version == 5
        self.heard: list[Heard] = []
        self._acked: set[int] = set()
        self._ready = threading.Event()
        self._topics = topics
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=MQTTProtocolVersion.MQTTv5 if self.v5 else MQTTProtocolVersion.MQTTv311,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(20)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.on_publish = lambda _c, _d, number, *_: self._acked.add(number)
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        if tls is not None:
            self._client.tls_set_context(tls)
        options: dict[str, Any] = {}
        if name:
            options = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}
            options["properties"].SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, **options)
        self._client.loop_start()
        if topics:
            assert self._ready.wait(PATIENCE)

    def _on_connect(self, *_: Any) -> None:
        if self._topics:
            self._client.subscribe([(topic, 1) for topic in self._topics])

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.heard.append(
            Heard(
                message.topic,
                bytes(message.payload),
                message.retain,
                message.qos,
                message.properties,
            )
        )

    def publish(
        self, topic: str, payload: Any, *, qos: int = 1, retain: bool = False, **properties: Any
    ) -> int:
        """The number of the packet. Dictionaries are sent as JSON."""
        if isinstance(payload, dict):
            payload = json.dumps(payload)
        found = None
        if properties:
            found = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(found, name, value)
        return self._client.publish(topic, payload, qos, retain, found).mid

    def ask(self, payload: Any, **options: Any) -> int:
        return self.publish(CHAT, payload, **options)

    def acked(self, number: int) -> bool:
        """Whether the broker has acknowledged that packet."""
        return number in self._acked

    def on(self, topic: str) -> list[Heard]:
        return [one for one in list(self.heard) if one.topic == topic]

    def wait(self, topic: str, count: int = 1) -> list[Heard]:
        """The first so many messages on a topic, once they have come."""
        poll(lambda: len(self.on(topic)) >= count, f"{count} on {topic}")
        return self.on(topic)[:count]

    def one(self, topic: str) -> Heard:
        return self.wait(topic)[0]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


Join = Callable[..., Factory]
"""Makes a client of a broker; what follows are the topics it hears."""


def behind(broker: Mosquitto, **settings: Any) -> dict[str, Any]:
    """The settings of a daemon behind that broker."""
    wanted = {"mqtt__enabled": "true", "mqtt__port": broker.port, "device__id": DEVICE}
    return wanted | settings
