"""Whatever is published: an error reply where one can be sent, a counter, and life goes on."""

from __future__ import annotations

import pytest
from daemon_process import DaemonProcess, Start, poll
from factory import CANCEL, CHAT, REPLIES, STATUS, Factory, Join, behind
from mosquitto import Mosquitto

SHORT = {"prompt": "Say hello.", "temperature": 0, "max_tokens": 4}
MEGABYTE = 1024 * 1024

BAD = {
    "not JSON": (b'{"prompt": "Hi"', "invalid_request_error", None),
    "JSON after rubbish": (b'{"prompt": "Hi"} and more', "invalid_request_error", None),
    "an array": (b'["Hi"]', "invalid_request_error", None),
    "half an array": (b"[1, 2", "invalid_request_error", None),
    "not UTF-8": (b"\xff\xfe\x00H", "invalid_request_error", None),
    "not UTF-8 in JSON": (b'{"prompt": "\xff"}', "invalid_request_error", None),
    "nothing": (b"", "invalid_request_error", None),
    "blanks": (b" \n\t", "invalid_request_error", None),
    "only NUL": (b"\0\0\0\0", "invalid_request_error", None),
    "nested deeply": (b'{"a":' * 100_000, "invalid_request_error", None),
    "nested deeply in an array": (b"[" * 100_000, "invalid_request_error", None),
    "too large": (b"x" * (MEGABYTE + 1), "payload_too_large", None),
    "far too large": (b"x" * (10 * MEGABYTE), "payload_too_large", None),
    "an unknown field": ({**SHORT, "max_token": 4}, "invalid_request_error", "max_token"),
    "no prompt": ({"max_tokens": 4}, "invalid_request_error", "messages"),
    "two prompts": (
        {**SHORT, "messages": [{"role": "user", "content": "Hi"}]},
        "invalid_request_error",
        "prompt",
    ),
    "an empty prompt": ({"prompt": " "}, "invalid_request_error", "prompt"),
    "a number as prompt": ({"prompt": 7}, "invalid_request_error", "prompt"),
    "a bad option": ({**SHORT, "edge": {"priority": "high"}}, "invalid_request_error", None),
    "a webhook": (
        {**SHORT, "edge": {"webhook": "http://127.0.0.1:9/"}},
        "invalid_request_error",
        "edge.webhook",
    ),
    "too few tokens": ({**SHORT, "max_tokens": 0}, "invalid_request_error", "max_tokens"),
    "what is not served": ({**SHORT, "model": "gpt-4"}, "model_not_found", "model"),
    "tools": ({**SHORT, "tools": [{}]}, "invalid_request_error", "tools[0].type"),
    "the cloud": ({**SHORT, "edge": {"route": "cloud"}}, "no_route", "edge.route"),
    "an id with a wildcard": ({**SHORT, "id": "a/#"}, "invalid_request_error", "id"),
    "an id that is long": ({**SHORT, "id": "x" * 129}, "invalid_request_error", "id"),
    "an id that is a flood": (
        b'{"id": ' + b"9" * 5000 + b', "prompt": "Hi"}',
        "invalid_request_error",
        None,
    ),
    "half a character": (b'{"prompt": "\\ud800"}', "invalid_request_error", None),
    "an id that no topic may have": ({**SHORT, "id": "\uffff"}, "invalid_request_error", "id"),
    "an id that is none": ({**SHORT, "id": [1]}, "invalid_request_error", "id"),
    "an address that is none": ({**SHORT, "reply_to": 7}, "invalid_request_error", "reply_to"),
}


def refused(daemon: DaemonProcess, reason: str) -> float:
    return daemon.metrics().get(f'edge_mqtt_refused_total{{reason="{reason}"}}', 0)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_payload(client: Factory, daemon: DaemonProcess, name: str) -> None:
    """An error in HTTP's shape goes where the caller asked for it, and is counted."""
    payload, code, param = BAD[name]
    before = refused(daemon, code)
    topic = f"line1/reply/{name}"
    client.ask(payload, ResponseTopic=topic, CorrelationData=b"bad")
    heard = client.one(topic)
    assert heard.correlation == b"bad"
    assert heard.json["status"] == "failed"
    error = heard.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    assert refused(daemon, code) == before + 1


def test_an_error_names_the_prompt(client: Factory) -> None:
    """The caller's id and `reply_to` are heeded where the rest of the message is wrong."""
    client.ask({"id": "mine", "reply_to": "line1/reply/r", "prompt": "Hi", "max_tokens": -1})
    assert client.one("line1/reply/r").json["id"] == "mine"
    client.ask({"id": "mine too", "prompt": "Hi", "max_tokens": -1})
    assert client.one(f"{REPLIES}/mine too").json["error"]["param"] == "max_tokens"


def test_an_error_found_late(client: Factory) -> None:
    """What only the model can tell is an error reply too."""
    client.ask({"id": "long", "prompt": "word " * 2000})
    reply = client.one(f"{REPLIES}/long").json
    assert reply["status"] == "failed"
    assert reply["error"]["code"] == "context_length_exceeded"
    assert reply["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "topic",
    [
        "line1/reply/+",
        "line1/#",
        "$SYS/broker/uptime",
        "$share/group/x",
        "elsewhere/x",
        "line1/replies/x",
        "",
        "line1/reply/" + "x" * 2000,
        CHAT,
        CANCEL,
        STATUS,
        "edge/another/chat",
        "edge/press-08/recipe/name",
    ],
)
def test_a_reply_topic_that_is_not_allowed(
    client: Factory, daemon: DaemonProcess, topic: str
) -> None:
    """The refusal comes on the default reply topic; nothing is published to the other one."""
    before = refused(daemon, "invalid_request_error")
    client.ask({**SHORT, "id": f"r{len(topic)}", "reply_to": topic})
    error = client.one(f"{REPLIES}/r{len(topic)}").json["error"]
    assert error["param"] == "reply_to"
    assert refused(daemon, "invalid_request_error") == before + 1
    client.heard.clear()


def test_a_response_topic_that_is_not_allowed(client: Factory) -> None:
    """MQTT's own property is checked like the field; wildcards never get past the broker."""
    client.ask({**SHORT, "id": "property"}, ResponseTopic="$SYS/x")
    assert client.one(f"{REPLIES}/property").json["error"]["param"] == "reply_to"
    client.ask({**SHORT, "id": "elsewhere"}, ResponseTopic="elsewhere/x")
    assert client.one(f"{REPLIES}/elsewhere").json["error"]["param"] == "reply_to"


def test_a_retained_prompt(broker: Mosquitto, start_quick: Start, join: Join) -> None:
    """It is ignored and counted; else each start of the appliance would answer it anew."""
    client = join(broker, "edge/#")
    number = client.ask({**SHORT, "id": "retained"}, retain=True)
    poll(lambda: client.acked(number), "an acknowledgement")
    daemon = start_quick(**behind(broker)).wait_ready()
    client.wait(STATUS)
    poll(lambda: refused(daemon, "retained") == 1, "a count")
    client.ask({**SHORT, "id": "fresh"})
    client.one(f"{REPLIES}/fresh")
    assert client.on(f"{REPLIES}/retained") == []


def test_nobody_listens(shared_broker: Mosquitto, daemon: DaemonProcess, join: Join) -> None:
    """The broker takes the reply and drops it; nothing is owed any more."""
    silent = join(shared_broker)
    silent.ask({**SHORT, "id": "unheard"}, ResponseTopic="line9/reply/nobody")

    def delivered() -> bool:
        jobs = daemon.get("/admin/v1/jobs?limit=1").json()["jobs"]
        return bool(jobs) and jobs[0]["client"] == "line9/reply/nobody" and jobs[0]["delivered"]

    poll(delivered, "a delivery")


def test_a_storm(client: Factory, shared_broker: Mosquitto, daemon: DaemonProcess, join: Join):
    """A client that floods gets all its answers, and another one is not behind all of them."""
    flood, storm = join(shared_broker, "flood/reply/#"), 300
    one_token = {"prompt": "Hi", "max_tokens": 1}
    memory = daemon.resources()[1]
    for number in range(storm):
        flood.ask({**one_token, "id": number, "reply_to": "flood/reply/x"})
    flood.wait("flood/reply/x", 5)
    client.ask({**one_token, "id": "polite"}, ResponseTopic="line1/reply/polite")
    client.one("line1/reply/polite")
    assert len(flood.on("flood/reply/x")) < storm
    replies = flood.wait("flood/reply/x", storm)
    assert sorted(reply.json["id"] for reply in replies) == list(range(storm))
    assert {reply.json["status"] for reply in replies} == {"done"}
    assert daemon.resources()[1] - memory < 50 * MEGABYTE


def test_a_storm_of_rubbish(client: Factory, daemon: DaemonProcess) -> None:
    """Every one is answered, with any quality of service, and a good prompt after them."""
    count = 200
    for number in range(count):
        client.ask(b"{" * 1000, qos=number % 3, ResponseTopic="line1/reply/rubbish")
    client.ask(SHORT, ResponseTopic="line1/reply/good")
    assert client.one("line1/reply/good").json["status"] == "done"
    replies = client.wait("line1/reply/rubbish", count)
    assert {reply.json["status"] for reply in replies} == {"failed"}


def test_a_property_that_paho_cannot_read(client: Factory, daemon: DaemonProcess) -> None:
    """U+FEFF in it ended the connection, and each one after it: the broker sends it again."""
    before = refused(daemon, "invalid_request_error")
    client.publish(CHAT, "Hello", UserProperty=[("X-Request-Id", "\ufeff")], qos=1)
    poll(lambda: refused(daemon, "invalid_request_error") == before + 1, "it is counted")
    client.ask({**SHORT, "reply_to": "line1/reply/after"})
    assert client.one("line1/reply/after").json["status"] == "done"
    assert daemon.metrics()["edge_mqtt_connected"] == 1


def test_a_flood_of_refusals_and_cancellations(client: Factory, daemon: DaemonProcess) -> None:
    """More of them than there is room for; none waits for a reply that nobody could hear of."""
    for number in range(1500):
        client.publish(CHAT, b"[" if number % 30 else {**SHORT, "max_tokens": 1}, qos=0)
        client.publish(CANCEL, {"id": f"no-{number}"}, qos=0)
    client.ask({**SHORT, "edge": {"priority": "critical"}, "reply_to": "line1/reply/behind"})
    assert client.one("line1/reply/behind").json["status"] == "done"
    assert "abandoned" not in daemon.new_log()
