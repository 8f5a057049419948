"""Prompts in, answers out: the forms a prompt may have, and where its answer goes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from daemon_process import MODEL, DaemonProcess, Start, poll
from factory import CANCEL, CHAT, DEVICE, REPLIES, Factory, Heard, Join, behind
from mosquitto import Mosquitto

from edge.audit.folder import Folder

SHORT = {"temperature": 0, "max_tokens": 4}
MESSAGES = [{"role": "user", "content": "Say hello."}]
LONG = {"prompt": "Count to a million.", "max_tokens": 400, "ignore_eos": True}


def under(client: Factory, topic: str, count: int = 1) -> list[Heard]:
    """So many messages on topics that begin with this."""

    def so_many() -> list[Heard] | None:
        found = [one for one in list(client.heard) if one.topic.startswith(topic)]
        return found if len(found) >= count else None

    found = poll(so_many, f"{count} under {topic}")
    assert found is not None
    return found


def refused(daemon: DaemonProcess, reason: str) -> float:
    return daemon.metrics().get(f'edge_mqtt_refused_total{{reason="{reason}"}}', 0)


def test_a_chat_body(client: Factory, daemon: DaemonProcess) -> None:
    """OpenAI's body in, OpenAI's answer out, with the appliance's fields at the top."""
    client.ask({"id": "body", "messages": MESSAGES, **SHORT})
    heard = client.one(f"{REPLIES}/body")
    answer = heard.json
    assert heard.qos == 1
    assert not heard.retain
    assert heard.properties.ContentType == "application/json"
    assert (answer["id"], answer["status"], answer["route"]) == ("body", "done", "local")
    assert answer["model"] == MODEL
    assert answer["response_id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    live = daemon.post("/v1/chat/completions", {"messages": MESSAGES, **SHORT}).json()
    assert answer["choices"] == live["choices"]
    assert answer["usage"]["total_tokens"] == live["usage"]["total_tokens"]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_quality_of_service(client: Factory, qos: int) -> None:
    """A prompt may come with any; the answer has QoS 1."""
    client.ask({"id": f"qos {qos}", "prompt": "Say hello.", **SHORT}, qos=qos)
    heard = client.one(f"{REPLIES}/qos {qos}")
    assert heard.json["status"] == "done"
    assert heard.qos == 1


@pytest.mark.parametrize("payload", ["Say hi in one word.", b"\xef\xbb\xbfSay hi.\0\0\0", "42"])
def test_plain_text(client: Factory, payload: Any) -> None:
    """Text in, JSON out, on the default reply topic under an id that was made."""
    topic = f"line1/reply/{len(payload)}"
    client.ask(payload, ResponseTopic=topic)
    answer = client.one(topic).json
    assert answer["status"] == "done"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    client.ask(payload)
    made = under(client, REPLIES + "/")[-1]
    assert made.topic == f"{REPLIES}/{made.json['id']}"


def test_a_controller_with_3_1_1(daemon: DaemonProcess, shared_broker: Mosquitto, join: Join):
    """What MQTT 5 has as properties stands in the JSON; a number counts as an id."""
    plc = join(shared_broker, "plant/reply/#", f"{REPLIES}/#", version=3)
    plc.ask({"id": 1, "reply_to": "plant/reply/plc", "prompt": "Say hello.", **SHORT})
    heard = plc.one("plant/reply/plc")
    assert heard.json["id"] == 1
    assert heard.json["status"] == "done"
    plc.ask("Say hello to a machine that speaks plain text only.")
    assert under(plc, f"{REPLIES}/")[0].json["status"] == "done"


def test_the_response_topic_and_the_correlation_data(client: Factory) -> None:
    """Both are MQTT's own; the data comes back byte for byte, whatever the bytes are."""
    data = bytes(range(256))
    client.ask(
        {"prompt": "Say hello.", "reply_to": "line1/reply/not-this", **SHORT},
        ResponseTopic="line1/reply/this",
        CorrelationData=data,
    )
    heard = client.one("line1/reply/this")
    assert heard.correlation == data
    assert heard.json["status"] == "done"


def test_options_of_the_appliance(client: Factory, daemon: DaemonProcess) -> None:
    """They stand in `edge`, or in User Properties that are named like HTTP's headers."""
    client.ask({"id": "in body", "prompt": "Hi", **SHORT, "edge": {"priority": "batch"}})
    client.ask(
        {"id": "beside it", "prompt": "Hi", **SHORT},
        UserProperty=[("X-Edge-Priority", "critical"), ("other", "1")],
    )
    client.wait(f"{REPLIES}/in body")
    client.wait(f"{REPLIES}/beside it")
    jobs = daemon.get("/admin/v1/jobs?limit=2").json()["jobs"]
    assert sorted(job["priority"] for job in jobs) == ["batch", "critical"]
    assert {job["client"] for job in jobs} == {REPLIES}
    assert {job["door"] for job in jobs} == {"mqtt"}


def test_a_stream(client: Factory) -> None:
    """The pieces come as they are made, in order, and together they are the final answer."""
    body = {"id": "stream", "prompt": "Count to ten.", "max_tokens": 8, "stream": True}
    client.ask(body, ResponseTopic="line1/reply/s", CorrelationData=b"s")
    answer = client.one("line1/reply/s").json
    pieces = client.on("line1/reply/s/delta")
    assert len(pieces) > 1
    assert {piece.qos for piece in pieces} == {0}
    assert {piece.json["id"] for piece in pieces} == {"stream"}
    assert {piece.correlation for piece in pieces} == {b"s"}
    text = "".join(piece.json["text"] for piece in pieces if piece.json["index"] == 0)
    assert text == answer["choices"][0]["message"]["content"]


def test_a_stream_of_a_tool_call(client: Factory) -> None:
    """The pieces of the call come as they are made, and together they are the final answer's."""
    parameters = {"type": "object", "properties": {"line": {"enum": ["A", "B"]}}}
    # Nothing else may follow: a small model goes on for as long as it can.
    closed = {**parameters, "required": ["line"], "additionalProperties": False}
    function = {"name": "stop", "parameters": closed}
    body = {
        "id": "tools",
        "prompt": "Stop line A.",
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "stop"}},
        "max_tokens": 60,
        "stream": True,
    }
    client.ask(body, ResponseTopic="line1/reply/t")
    (choice,) = client.one("line1/reply/t").json["choices"]
    (call,) = choice["message"]["tool_calls"]
    bodies = [piece.json for piece in client.on("line1/reply/t/delta")]
    pieces = [piece for body in bodies for piece in body.get("tool_calls", [])]
    assert (pieces[0]["id"], pieces[0]["function"]["name"]) == (call["id"], "stop")
    spelled = "".join(piece["function"]["arguments"] for piece in pieces)
    assert spelled == call["function"]["arguments"]
    assert json.loads(spelled)["line"] in "AB"


def test_the_same_id_again(client: Factory, daemon: DaemonProcess) -> None:
    """Same body: the same bytes once more. Another body after the end: a prompt of its own."""
    body = {"id": "again", "prompt": "Tell a story.", "max_tokens": 6}
    topic, before = f"{REPLIES}/again", refused(daemon, "duplicate")
    client.ask(body)
    client.wait(topic)
    client.ask(body, CorrelationData=b"second")
    first, second = client.wait(topic, 2)
    assert first.payload == second.payload
    assert second.correlation == b"second"
    assert refused(daemon, "duplicate") == before + 1
    client.ask({**body, "prompt": "Tell another story."})
    third = client.wait(topic, 3)[2]
    assert third.json["status"] == "done"
    assert third.json["response_id"] != first.json["response_id"]


def test_the_same_id_with_another_body_while_it_waits(client: Factory) -> None:
    """An error, and the first prompt is not touched; elsewhere the id is free."""
    client.ask({"id": "busy", **LONG})
    client.ask({"id": "busy", "prompt": "Something else."})
    refusal = client.one(f"{REPLIES}/busy")
    assert refusal.json["status"] == "failed"
    assert refusal.json["error"]["code"] == "idempotency_key_reused"
    client.ask({"id": "busy", "prompt": "Hi", **SHORT}, ResponseTopic="line1/reply/free")
    assert client.one("line1/reply/free").json["status"] == "done"
    client.publish(CANCEL, {"id": "busy", "reply_to": REPLIES})
    assert client.wait(f"{REPLIES}/busy", 2)[1].json["status"] == "cancelled"


def test_the_same_correlation_data_twice(client: Factory) -> None:
    """With the same payload it is the same prompt: the same answer, computed once."""
    topic, options = "line1/reply/c", {"ResponseTopic": "line1/reply/c", "CorrelationData": b"7"}
    client.ask("Tell a story of ten words.", **options)
    client.wait(topic)
    client.ask("Tell a story of ten words.", **options)
    first, second = client.wait(topic, 2)
    assert first.payload == second.payload
    client.ask("Tell a story of nine words.", **options)
    assert client.wait(topic, 3)[2].json["id"] != first.json["id"]


def test_the_same_text_twice(client: Factory) -> None:
    """Without an id and Correlation Data nothing says that it is the same: two answers."""
    for _ in range(2):
        client.ask("Tell a story of one word.", ResponseTopic="line1/reply/twice")
    first, second = client.wait("line1/reply/twice", 2)
    assert first.json["id"] != second.json["id"]


def test_a_cancelled_prompt(client: Factory, daemon: DaemonProcess) -> None:
    """Its final reply says so; what runs is stopped, what is not there is an error."""
    client.ask({"id": "endless", **LONG}, ResponseTopic="line1/reply/e")
    poll(lambda: (daemon.status()["stats"] or {})["running"] > 0, "running")
    client.publish(CANCEL, {"id": "endless"})
    reply = client.one("line1/reply/e").json
    assert (reply["id"], reply["status"]) == ("endless", "cancelled")
    client.publish(CANCEL, {"id": "never seen"}, ResponseTopic="line1/reply/n")
    assert client.one("line1/reply/n").json["error"]["code"] == "job_not_found"
    client.publish(CANCEL, "nonsense", ResponseTopic="line1/reply/x")
    assert client.one("line1/reply/x").json["error"]["code"] == "invalid_request_error"


def test_cancelling_what_several_callers_have(client: Factory) -> None:
    """An id without a reply topic has to be one caller's; with it, it is that caller's."""
    for line in "ab":
        client.ask({"id": "7", **LONG}, ResponseTopic=f"line1/reply/{line}")
    client.publish(CANCEL, {"id": "7"})
    assert client.one(f"{REPLIES}/7").json["error"]["param"] == "reply_to"
    for line in "ab":
        client.publish(CANCEL, {"id": "7"}, ResponseTopic=f"line1/reply/{line}")
        assert client.one(f"line1/reply/{line}").json["status"] == "cancelled"


def test_a_message_that_expires(client: Factory, daemon: DaemonProcess) -> None:
    """Message Expiry is the deadline, and so is `deadline_ms`; the shorter of them counts."""
    client.ask({"id": "late", **LONG}, MessageExpiryInterval=1)
    client.ask(
        {"id": "later", **LONG, "edge": {"deadline_ms": 500}},
        MessageExpiryInterval=3600,
        ResponseTopic="line1/reply/later",
    )
    for topic in (f"{REPLIES}/late", "line1/reply/later"):
        reply = client.one(topic).json
        assert reply["status"] == "expired"
        assert reply["error"]["code"] == "deadline_exceeded"


def test_a_place_in_the_queue(client: Factory) -> None:
    """Whoever has waited for a second is told; then the answers come as ever."""
    # Three slots are for jobs.
    ids = [f"queued {number}" for number in range(5)]
    for one in ids:
        client.ask({"id": one, **LONG, "max_tokens": 300}, ResponseTopic=f"line1/reply/{one}")
    notice = client.one(f"line1/reply/{ids[4]}/status").json
    assert notice == {"id": ids[4], "status": "queued", "position": 2}
    assert client.one(f"line1/reply/{ids[3]}/status").json["position"] == 1
    for one in ids:
        client.publish(CANCEL, {"id": one})
        assert client.one(f"line1/reply/{one}").json["status"] == "cancelled"


def test_a_group_of_appliances(
    broker: Mosquitto, start_quick: Start, join: Join, tmp_path: Any
) -> None:
    """They share `any/chat`: each prompt is answered by one of them, and by either."""
    group = {"mqtt__shared_group": "line"}
    folders = {name: tmp_path / name for name in (DEVICE, "press-08")}
    for name, folder in folders.items():
        start_quick(folder=folder, **behind(broker, device__id=name, **group))
    client = join(broker, "line1/reply/#", "edge/+/status")
    for name in folders:
        client.wait(f"edge/{name}/status")
    for number in range(4):
        client.publish(
            "edge/any/chat",
            json.dumps({"id": number, "prompt": "Hi", **SHORT}),
            ResponseTopic=f"line1/reply/{number}",
        )
    for number in range(4):
        assert client.one(f"line1/reply/{number}").json["status"] == "done"
    finals = [one for one in client.heard if one.topic.startswith("line1") and one.qos == 1]
    assert len(finals) == 4


def test_prompts_are_in_the_audit_log(client: Factory, daemon: DaemonProcess) -> None:
    """By the id of their answer, with the reply topic that they came with."""
    client.ask({"id": "audited", "messages": MESSAGES, "reply_to": "line1/reply/7", **SHORT})
    answer = client.one("line1/reply/7").json

    def read() -> list[dict[str, Any]]:
        files = Folder(daemon.folder / "state").files()
        lines = b"".join(file.path.read_bytes() for file in files).splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def events() -> list[dict[str, Any]]:
        return [e for e in read() if answer["response_id"].endswith(e.get("id", "?"))]

    (event,) = poll(events, "an event")
    assert (event["what"], event["door"], event["status"]) == ("chat", "mqtt", "ok")
    assert (event["who"], event["from"]) == ("anybody", "line1/reply/7")
    assert event["completion_tokens"] == answer["usage"]["completion_tokens"]

    def refusals() -> list[dict[str, Any]]:
        # Again and again: in the minute after a flood of another test they are told as a number.
        client.publish(CHAT, '{"messages": 7}', qos=1, ResponseTopic="line1/reply/8")
        return [e for e in read() if e.get("from") == "line1/reply/8"]

    found = poll(refusals, "a refusal")[0]
    told = (found["what"], found["door"], found["status"])
    assert told == ("refused", "mqtt", "invalid_request_error")
