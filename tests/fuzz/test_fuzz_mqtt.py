"""No message and no broker ends the daemon, or keeps it from answering those after it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
import seeds
from daemon_process import PATIENCE, DaemonProcess, Start, poll
from duration import rounds
from factory import DEVICE, Factory
from hostile_broker import HostileBroker
from mosquitto import Mosquitto
from mutator import AWKWARD, payload
from paho.mqtt.enums import MQTTProtocolVersion

from edge.api.mqtt.handover import Handover
from edge.api.mqtt.link import Disconnected, Link, Options
from edge.api.mqtt.message import Incoming
from edge.config.doors import Mqtt

BODIES: list[tuple[str, Any]] = [
    ("chat", seeds.PROMPT),
    ("chat", seeds.CHAT),
    ("chat", "plain text"),
    ("embed", {"id": 1, **seeds.EMBEDDING}),
    ("infer/adder", {"id": "a", **seeds.ADDER}),
    ("infer/adder", {"image": seeds.PIXEL}),
    ("infer/nothing", "not even JSON"),
    ("cancel", {"id": "42"}),
]
REPLIES = ("a/reply/1", "$SYS/x", "edge/press-07/chat", "+/#", "\ufeff", "x" * 5000, "a/reply/é")
USER = ("X-Request-Id", "X-Edge-Priority", "X-Edge-Deadline-Ms", "X-Edge-Route", "api-key", "a")
BETWEEN = 200
"""Messages after which one has to be answered."""

DONE = f"{DEVICE}/reply/fuzz"


def properties(chance: random.Random) -> dict[str, Any]:
    """Any of those that a caller may set and the broker lets through: it hangs up at controls."""
    found: dict[str, Any] = {}
    if chance.random() < 0.3:
        found["ResponseTopic"] = chance.choice(REPLIES[:1] * 3 + REPLIES[2:3] + REPLIES[4:])
    if chance.random() < 0.3:
        found["CorrelationData"] = chance.randbytes(chance.choice((0, 1, 16, 2000)))
    if chance.random() < 0.2:
        found["MessageExpiryInterval"] = chance.choice((1, 2, 2**32 - 1))
    if chance.random() < 0.3:
        text = "".join(c for c in str(chance.choice(AWKWARD)) if c.isprintable() or c == "\ufeff")
        found["UserProperty"] = [(chance.choice(USER), text[:500])] * 2
    if chance.random() < 0.1:
        found["PayloadFormatIndicator"] = 0
    return found


class Callers:
    """One of each version. The broker may hang up at what they send; then they would send it again
    and again, so that there have to be others."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.renew(first=True)

    def renew(self, *, first: bool = False) -> None:
        if not first:
            self.close()
        self._new, self._old = Factory(self._port), Factory(self._port, version=4)

    def publish(self, chance: random.Random, topic: str, raw: bytes) -> None:
        qos, retain = chance.randrange(3), chance.random() < 0.02
        if chance.random() < 0.3:
            self._old.publish(topic, raw, qos=qos, retain=retain)
        else:
            self._new.publish(topic, raw, qos=qos, retain=retain, **properties(chance))

    def close(self) -> None:
        for client in (self._new, self._old):
            client.close()


def test_messages(daemon: DaemonProcess, fuzz_broker: Mosquitto) -> None:
    """Wrong payloads made of right ones, in both versions, with properties that mean something."""
    asker, callers = Factory(fuzz_broker.port, DONE), Callers(fuzz_broker.port)
    sent = 0
    for chance in rounds(20):
        for kind, value in BODIES:
            raw = payload(chance, value)
            callers.publish(chance, f"edge/{DEVICE}/{kind}", raw)
            sent += 1
            if sent % BETWEEN == 0:
                answered(daemon, asker, sent)
                callers.renew()
    answered(daemon, asker, sent)
    for kind, _ in BODIES:
        asker.publish(f"edge/{DEVICE}/{kind}", b"", retain=True)
    told = daemon.metrics()
    assert told.get('edge_mqtt_refused_total{reason="internal_error"}', 0) == 0
    refused = sum(
        count for name, count in told.items() if name.startswith("edge_mqtt_refused_total")
    )
    print(f"{sent} messages, {refused:.0f} refused")  # noqa: T201
    asker.close()
    callers.close()


def answered(daemon: DaemonProcess, factory: Factory, number: int) -> None:
    """A right prompt of another caller, behind so many messages."""
    body = {"id": f"n{number}", "prompt": "x", "max_tokens": 1, "reply_to": DONE}
    factory.publish(f"edge/{DEVICE}/chat", {**body, "edge": {"priority": "critical"}})

    def came() -> bool:
        return any(json.loads(one.payload)["id"] == f"n{number}" for one in factory.on(DONE))

    try:
        poll(came, f"an answer behind {number} messages")
    except AssertionError:
        told = {name: value for name, value in daemon.metrics().items() if "mqtt" in name}
        heard = [one.payload[:200] for one in factory.on(DONE)][-1:]
        raise AssertionError(f"{told} {daemon.status()['stats']} {heard} {daemon.log}") from None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_links_to_a_hostile_broker() -> None:
    """Each ends with a reason, and nothing of it is left."""
    messages = 0

    def received(link: Link, message: Incoming) -> None:
        nonlocal messages
        messages += 1
        handover.give_back(len(message.payload))
        link.acknowledge(message)

    reasons = set()
    for first in rounds(1):
        broker, handover = HostileBroker(first.randrange(2**32)), Handover()
        options = Options(
            settings=Mqtt(host="127.0.0.1", port=broker.port),
            client_id="prey",
            will=("prey/status", b"gone"),
            limit=100_000,
            handover=handover,
            received=received,
        )
        for _ in range(20):
            link = Link(options, MQTTProtocolVersion.MQTTv5)
            try:
                await asyncio.wait_for(link.open(["prey/#"]), PATIENCE)
                await asyncio.wait({link.closed}, timeout=0.3)
            except Disconnected as reason:
                reasons.add(str(reason))
            link.abandon()
        broker.close()
    print(f"{messages} messages got through; {len(reasons)} reasons")  # noqa: T201
    assert reasons


def test_a_daemon_behind_a_hostile_broker(start_quick: Start, tmp_path: Path) -> None:
    """It answers over HTTP meanwhile, tries again and again, and is back with a right one."""
    broker = HostileBroker(seed=1)
    daemon = start_quick(mqtt__enabled="true", mqtt__port=broker.port, device__id=DEVICE)
    daemon.wait_ready()
    poll(lambda: broker.connections >= 4, "it tries again")
    assert daemon.post("/v1/completions", {"prompt": "x"}).status_code == 200
    broker.close()
    right = Mosquitto(tmp_path / "right", port=broker.port)
    try:
        poll(lambda: daemon.metrics()["edge_mqtt_connected"] == 1, "connected")
    finally:
        right.end()
    assert daemon.stop() == 0
