"""A message from the broker as the event loop gets it, free of paho's types."""

from __future__ import annotations

from typing import Any

import msgspec
from paho.mqtt.client import MQTTMessage


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """size: bytes of the payload as it came; a payload that is too large is dropped at once.

    number: MQTT's packet identifier, the same when the broker sends the message again.
    again: the broker marks it as sent before. expiry: seconds left of its life.
    user: User Properties, names in lower case. readable: False where they, or what else is beside
    the payload, could not be read; then there is neither. The rest is MQTT's word for it.
    """

    topic: str
    payload: bytes
    size: int
    qos: int
    number: int
    again: bool
    retained: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry: int | None = None
    user: dict[str, str] = {}
    readable: bool = True

    @property
    def too_large(self) -> bool:
        return self.size > len(self.payload)


def incoming(message: MQTTMessage, limit: int, *, readable: bool = True) -> Incoming:
    """Called in the network's thread. Raises `UnicodeDecodeError` for a topic that is no text."""
    properties: Any = message.properties  # None before MQTT 5
    return Incoming(
        topic=message.topic,
        payload=bytes(message.payload) if len(message.payload) <= limit else b"",
        size=len(message.payload),
        qos=message.qos,
        number=message.mid,
        again=message.dup,
        retained=message.retain,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry=getattr(properties, "MessageExpiryInterval", None),
        user={name.lower(): value for name, value in getattr(properties, "UserProperty", [])},
        readable=readable,
    )
