"""Prompts over MQTT that a cloud model answers, now or when it is there again."""

from __future__ import annotations

import json

from daemon_process import MODEL, Start, poll
from factory import DEVICE, REPLIES, STATUS, Factory, Join, behind
from fake_cloud import FakeCloud, text_of
from mosquitto import Mosquitto


def yaml(cloud: FakeCloud) -> str:
    routes = {"far": ["cloud:cloud"], "near": [f"local:{MODEL}"]}
    return json.dumps({"routes": routes, "upstreams": {"cloud": {"base_url": cloud.url}}})


def text(reply: Factory, name: str) -> str:
    answer = reply.one(f"{REPLIES}/{name}").json
    assert answer["status"] == "done"
    return str(answer["choices"][0]["message"]["content"])


def test_cloud_answers_and_says_so(start_quick: Start, broker: Mosquitto, join: Join) -> None:
    """Route and model of who answered; telemetry tells how the upstream is."""
    with FakeCloud() as cloud:
        # Before the daemon: the next telemetry would come after ten seconds.
        client = join(broker, f"{REPLIES}/#", f"edge/{DEVICE}/telemetry", STATUS)
        start_quick(yaml=yaml(cloud), **behind(broker)).wait_ready()
        client.one(STATUS)
        client.ask({"id": "far", "prompt": "count", "model": "far"})
        assert text(client, "far") == text_of(20)
        answer = client.one(f"{REPLIES}/far").json
        assert (answer["route"], answer["model"]) == ("cloud", "far")
        assert answer["edge"]["attempts"][0]["target"] == "cloud:cloud"
        told = client.one(f"edge/{DEVICE}/telemetry").json["connectivity"]["upstreams"]
        assert told["cloud"]["state"] == "closed"


def test_prompts_wait_for_the_cloud_and_for_nobody_else(
    start_quick: Start, broker: Mosquitto, join: Join
) -> None:
    """Those for the model here are answered meanwhile; the others when the cloud is back."""
    with FakeCloud() as cloud:
        cloud.stop()
        start_quick(yaml=yaml(cloud), **behind(broker)).wait_ready()
        client = join(broker, f"{REPLIES}/#", STATUS)
        client.one(STATUS)
        for number in range(5):
            client.ask({"id": f"far{number}", "prompt": f"count {number}", "model": "far"})
        client.ask({"id": "near", "prompt": "Say hello.", "model": "near", "max_tokens": 3})
        assert text(client, "near")
        assert not [
            one
            for one in client.heard
            if one.topic.startswith(f"{REPLIES}/far") and one.topic.count("/") == 3
        ]
        cloud.start()
        for number in range(5):
            assert text(client, f"far{number}") == text_of(20)
        assert poll(
            lambda: len({c["headers"]["idempotency-key"] for c in cloud.calls()}) == 5, "keys"
        )
