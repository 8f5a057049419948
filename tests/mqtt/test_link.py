"""The connection to the broker, without the daemon around it."""

from __future__ import annotations

import socket
from typing import Any

from mosquitto import Mosquitto
from paho.mqtt.enums import MQTTProtocolVersion

from edge.api.mqtt.handover import Handover
from edge.api.mqtt.link import Link, Options
from edge.config.doors import Mqtt


def nobody(link: Link, message: Any) -> None:
    raise AssertionError("no message was to come")


async def test_nothing_is_held_back(shared_broker: Mosquitto) -> None:
    """A small packet goes out at once, though the one before it is not acknowledged by TCP."""
    options = Options(
        settings=Mqtt(host="127.0.0.1", port=shared_broker.port),
        client_id="nothing-is-held-back",
        will=("nothing/status", b"gone"),
        limit=1000,
        handover=Handover(),
        received=nobody,
    )
    link = Link(options, MQTTProtocolVersion.MQTTv5)
    await link.open(["nothing/#"])
    connection = link._client.socket()
    assert isinstance(connection, socket.socket)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await link.close()
