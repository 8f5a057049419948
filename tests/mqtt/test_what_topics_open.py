"""Every topic of a real appliance on a real broker, with each kind of key shown in each way: as
docs/security.md says."""

from __future__ import annotations

import asyncio
import itertools
import runpy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from factory import DEVICE, STATUS, Factory, Join
from mosquitto import Mosquitto

from edge.api.mqtt import callers
from edge.api.mqtt.topics import TOPIC_RIGHTS, Topics
from edge.appliance import Appliance
from edge.config.doors import Auth, Device, Mqtt
from edge.config.tree import Config
from edge.fleet.installed import InstalledModels
from edge.metrics import Metrics

OPENS = runpy.run_path(str(Path(__file__).parents[2] / "scripts/opens.py"))
MODEL = OPENS["MODEL"]

INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"prompt": "x", "model": MODEL},
    "embed": {"input": "x", "model": MODEL},
    "infer/+": {"inputs": [INPUT]},
    "cancel": {"id": "never"},
}
OPTIONS = {
    "the same, `priority: critical`": {"priority": "critical"},
    "the same, `route: cloud`": {"route": "cloud"},
}
CODES = {"invalid_api_key": "401", "permission_denied": "403"}


@pytest.fixture
async def appliance(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Appliance]:
    """Its ledger is open and its door too; it answers nothing that is let in."""
    monkeypatch.setenv("EDGE_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(callers, "MOST_REFUSALS", 1e9)
    # The broker lets in anybody with any name; that it should not is test_production_broker's.
    mqtt = Mqtt(port=broker.port, username="edge")
    config = Config(device=Device(id=DEVICE), auth=Auth(required=True), mqtt=mqtt)
    metrics = Metrics()
    with closing(InstalledModels(tmp_path, config.engine, metrics)) as installed:
        made = Appliance(config, installed, metrics)
        assert made.mqtt is not None
        async with AsyncExitStack() as stack:
            await made.open_files(stack)
            door = asyncio.create_task(made.mqtt.run())
            yield made
            await made.mqtt.stop()
            door.cancel()
            with suppress(asyncio.CancelledError):
                await door


def ask(client: Factory, topic: str, body: dict[str, Any], way: str, kind: Any, token: Any) -> str:
    """Publish it with the key shown in this way; the topic of the reply."""
    place = f"line1/reply/{next(NUMBERS)}"
    properties: dict[str, Any] = {"ResponseTopic": place}
    if way == "topic" and kind.name is not None:
        topic = f"as/{kind.name or 'nobody'}/{topic}"
    elif token is not None and way == "property":
        properties["UserProperty"] = [("api-key", token)]
    elif token is not None:
        body = {**body, "api_key": token}
    client.publish(f"edge/{DEVICE}/{topic}", body, **properties)
    return place


NUMBERS = itertools.count()


async def test_every_topic_with_each_kind_of_key(
    appliance: Appliance, broker: Mosquitto, join: Join
) -> None:
    tokens = OPENS["tokens"](appliance.gate.keyring, "mqtt")
    expected = OPENS["outcomes"]("mqtt")
    client = await asyncio.to_thread(join, broker, "line1/reply/#", STATUS)
    await asyncio.to_thread(client.one, STATUS)
    asked: dict[str, tuple[str, str, str, str]] = {}
    for kind in OPENS["kinds"]("mqtt"):
        for way in ("topic", "property", "body"):
            for topic, right in TOPIC_RIGHTS.items():
                wants = {OPENS["ROUTE_ASKS"][right]: {}} | (OPTIONS if right == "model" else {})
                for what, option in wants.items():
                    body = BODIES[topic] | ({"edge": option} if option else {})
                    named = topic.replace("+", MODEL)
                    place = ask(client, named, body, way, kind, tokens[kind.label])
                    asked[place] = (topic, way, kind.label, expected[what][kind.label])
    for place, (*where, wanted) in asked.items():
        reply = (await asyncio.to_thread(client.one, place)).json
        code = reply["error"]["code"]
        assert CODES.get(code, OPENS["YES"]) == wanted, (where, reply)


def test_all_that_is_listened_on_is_declared() -> None:
    listened = Topics("edge", DEVICE, "group").subscriptions
    known = {*TOPIC_RIGHTS, *(f"as/+/{topic}" for topic in TOPIC_RIGHTS)}
    shared = {topic for topic in known if not topic.endswith("cancel")}
    assert set(listened) == {f"edge/{DEVICE}/{topic}" for topic in known} | {
        f"$share/group/edge/any/{topic}" for topic in shared
    }
