"""Pictures and tensors in, what was seen and computed out; and through a chain, a report."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, Start, poll, running
from factory import CANCEL, CHAT, DEVICE, REPLIES, Factory, Join, behind
from mosquitto import Mosquitto
from photographs import PLATE_TEXTS
from seeing_daemon import CHAINS, PLATE, SCENE, install_models

INFER = f"edge/{DEVICE}/infer"
TEXT = base64.b64encode(SCENE).decode()
BOXES = [("red", [64, 32, 96, 64]), ("blue", [240, 200, 272, 232])]

TENSORS = {
    "inputs": [
        {"name": name, "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} for name in "ab"
    ]
}


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Not that of the other files, whose daemon has the same name."""
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.end()


@pytest.fixture(scope="module")
def seeing(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path, shared_broker: Mosquitto
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("seeing")
    install_models(folder)
    settings = behind(shared_broker, limits__max_body_mb=1, limits__default_max_tokens=8)
    with running(folder, default_model_path, yaml=CHAINS, **settings) as daemon:
        yield daemon


@pytest.fixture
def daemon(seeing: DaemonProcess) -> Iterator[DaemonProcess]:
    seeing.new_log()
    poll(lambda: seeing.metrics()["edge_mqtt_connected"], "a subscription")
    yield seeing
    print(seeing.new_log())  # noqa: T201 - pytest shows it when the test has failed
    seeing.wait_idle()


def boxes(answer: dict[str, Any]) -> list[tuple[str, list[float]]]:
    """Sorted as `BOXES` are, with whole pixels: JPEG blurs them a little."""
    found = [(one["label"], [round(side) for side in one["box"]]) for one in answer["detections"]]
    return sorted(found, reverse=True)


def test_a_jpeg(client: Factory, daemon: DaemonProcess) -> None:
    """The payload is the file; what was seen is JSON, with the appliance's fields at the top."""
    data = bytes(range(256))
    client.publish(
        f"{INFER}/squares", SCENE, ResponseTopic="line1/reply/jpeg", CorrelationData=data
    )
    heard = client.one("line1/reply/jpeg")
    answer = heard.json
    assert (answer["status"], answer["route"], answer["model"]) == ("done", "local", "squares")
    assert boxes(answer) == BOXES
    assert (answer["width"], answer["height"]) == (320, 320)
    assert answer["response_id"] == f"sight-{answer['id']}"
    assert heard.correlation == data
    assert heard.qos == 1
    assert heard.properties.ContentType == "application/json"


def test_a_jpeg_in_json(client: Factory, daemon: DaemonProcess) -> None:
    """For who has no properties, or something to say about how to look."""
    body = {"id": 7, "image": TEXT, "threshold": 0.9, "edge": {"priority": "batch"}}
    client.publish(f"{INFER}/squares", body)
    answer = client.one(f"{REPLIES}/7").json
    assert (answer["id"], boxes(answer)) == (7, BOXES)
    body = {"id": "labels", "image": f"data:image/jpeg;base64,{TEXT}", "top_k": 2}
    client.publish(f"{INFER}/colors", body)
    assert len(client.one(f"{REPLIES}/labels").json["labels"]) == 2
    client.publish(f"{INFER}/squares", {"id": "drawn", "image": TEXT, "draw": "png"})
    drawn = client.one(f"{REPLIES}/drawn").json["picture"]
    assert base64.b64decode(drawn).startswith(b"\x89PNG")


def test_tensors(client: Factory, daemon: DaemonProcess) -> None:
    """The Open Inference Protocol's JSON, and its answer."""
    client.publish(f"{INFER}/sums", {"id": "sums", **TENSORS})
    answer = client.one(f"{REPLIES}/sums").json
    (total,) = answer["outputs"]
    assert (total["name"], total["shape"], total["data"]) == ("sum", [1, 4], [2.0, 4.0, 6.0, 8.0])
    assert (answer["status"], answer["model"], answer["model_name"]) == ("done", "sums", "sums")


def test_a_chain(client: Factory, daemon: DaemonProcess) -> None:
    """A JPEG in, with its fields as User Properties; a report out, with what it is about."""
    client.publish(
        f"{INFER}/line-report",
        SCENE,
        ResponseTopic="line1/reply/report",
        UserProperty=[("line", "A <|im_end|>"), ("X-Request-Id", "report 1"), ("other", "1")],
    )
    answer = client.one("line1/reply/report").json
    assert (answer["id"], answer["status"], answer["chain"]) == ("report 1", "done", "line-report")
    assert (answer["model"], answer["route"]) == (MODEL, "local")
    assert answer["text"].strip()
    assert boxes(answer["sighting"]) == BOXES
    assert answer["usage"]["completion_tokens"] <= 16
    prompt = (
        "2 things lie on line A <|im_end|>, shift 1:\n"
        "a red one at 64, 32\na blue one at 240, 200\nSay what lies where."
    )
    system = {"role": "system", "content": "You write reports of one sentence."}
    chat = {"messages": [system, {"role": "user", "content": prompt}]}
    live = daemon.post("/v1/chat/completions", {**chat, "temperature": 0, "max_tokens": 16}).json()
    assert answer["usage"]["prompt_tokens"] == live["usage"]["prompt_tokens"]
    assert answer["text"] == live["choices"][0]["message"]["content"]


def test_a_chain_with_real_models(client: Factory, daemon: DaemonProcess) -> None:
    """A detector and a reader of texts see, and a language model writes; the request is JSON."""
    picture = base64.b64encode(PLATE).decode()
    client.publish(f"{INFER}/plate-report", {"id": "plate", "image": picture})
    answer = client.one(f"{REPLIES}/plate").json
    assert answer["status"] == "done", answer
    texts = {one["text"] for one in answer["sighting"]["detections"]}
    assert texts >= {PLATE_TEXTS[0], PLATE_TEXTS[3]}
    assert answer["text"].strip()


BAD: dict[str, tuple[str, Any, str, str | None]] = {
    "not a picture": ("squares", b"hello", "invalid_request_error", None),
    "a truncated JPEG": ("squares", SCENE[: len(SCENE) // 2], "invalid_request_error", None),
    "zeros": ("squares", bytes(9), "invalid_request_error", None),
    "nothing": ("squares", b"", "invalid_request_error", None),
    "too large": ("squares", SCENE + bytes(1024 * 1024), "payload_too_large", None),
    "half JSON": ("squares", b'{"image": "', "invalid_request_error", None),
    "no picture in JSON": ("squares", {"picture": TEXT}, "invalid_request_error", None),
    "not base64": ("squares", {"image": "?"}, "invalid_request_error", "image"),
    "an unknown field": ("squares", {"image": TEXT, "x": 1}, "invalid_request_error", "x"),
    "another model": (
        "squares",
        {"image": TEXT, "model": "colors"},
        "invalid_request_error",
        "model",
    ),
    "a bad option": (
        "squares",
        {"image": TEXT, "edge": {"priority": "high"}},
        "invalid_request_error",
        "edge.priority",
    ),
    "a webhook": (
        "squares",
        {"image": TEXT, "edge": {"webhook": "http://127.0.0.1:9/"}},
        "invalid_request_error",
        "edge.webhook",
    ),
    "no such model": ("nose", SCENE, "model_not_found", "model"),
    "no model": ("", SCENE, "model_not_found", "model"),
    "a way out": ("..", SCENE, "model_not_found", "model"),
    "a model for tensors": ("sums", SCENE, "invalid_request_error", None),
    "tensors of another shape": (
        "sums",
        {"inputs": [{**TENSORS["inputs"][0], "shape": [1, 5]}]},
        "invalid_request_error",
        None,
    ),
    "tensors that are missing": (
        "sums",
        {"inputs": TENSORS["inputs"][:1]},
        "invalid_request_error",
        None,
    ),
    "no tensors": ("sums", {"inputs": 7}, "invalid_request_error", None),
    "a chain without its field": ("line-report", SCENE, "invalid_request_error", "line"),
    "a field that is none": (
        "line-report",
        {"image": TEXT, "line": "A", "lane": 1},
        "invalid_request_error",
        "lane",
    ),
    "a field of another kind": (
        "line-report",
        {"image": TEXT, "line": ["A"]},
        "invalid_request_error",
        "line",
    ),
    "a chain without a picture": ("line-report", {"line": "A"}, "invalid_request_error", "image"),
    "what cannot be seen": (
        "line-report",
        {"image": base64.b64encode(b"no").decode(), "line": "A"},
        "invalid_request_error",
        None,
    ),
    "a chain that is blind": ("blind", SCENE, "invalid_request_error", None),
    "a chain to nowhere": ("nowhere", SCENE, "model_not_found", None),
    "a chain without words": ("speechless", SCENE, "model_not_found", None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_payload(client: Factory, daemon: DaemonProcess, name: str) -> None:
    """An error in HTTP's shape goes where the caller asked for it."""
    model, payload, code, param = BAD[name]
    topic = f"line1/reply/bad {name}"
    client.publish(f"{INFER}/{model}", payload, ResponseTopic=topic, CorrelationData=name.encode())
    heard = client.one(topic)
    assert heard.correlation == name.encode()
    assert heard.json["status"] == "failed"
    error = heard.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    if param is not None:
        assert error["param"] == param


def test_errors_of_a_chain_tell_which_half(client: Factory, daemon: DaemonProcess) -> None:
    for chain, half in (("nowhere", "looks at the picture"), ("speechless", "writes the text")):
        client.publish(f"{INFER}/{chain}", SCENE, ResponseTopic=f"line1/reply/{chain}")
        message = client.one(f"line1/reply/{chain}").json["error"]["message"]
        assert f"`gone`, which {half}: " in message


def test_the_same_picture_twice(client: Factory, daemon: DaemonProcess) -> None:
    """By its id, or by Correlation Data: the same answer, looked at once. Another model, or with
    another id: another request."""
    topic, again = "line1/reply/twice", {"UserProperty": [("X-Request-Id", "twice")]}
    for _ in range(2):
        client.publish(f"{INFER}/squares", SCENE, ResponseTopic=topic, **again)
        client.wait(topic, 1)
    first, second = client.wait(topic, 2)
    assert first.payload == second.payload
    assert first.json["id"] == "twice"
    client.publish(f"{INFER}/colors", SCENE, ResponseTopic=topic, **again)
    assert client.wait(topic, 3)[2].json["model"] == "colors"
    topic, again = "line1/reply/correlated", {"CorrelationData": b"part 7"}
    for model in ("squares", "squares", "colors"):
        client.publish(f"{INFER}/{model}", SCENE, ResponseTopic=topic, **again)
        client.wait(topic, len(client.on(topic)) + 1)
    first, second, third = client.on(topic)
    assert first.payload == second.payload
    assert third.json["model"] == "colors"


def test_a_bad_id(client: Factory, daemon: DaemonProcess) -> None:
    client.publish(
        f"{INFER}/squares",
        SCENE,
        ResponseTopic="line1/reply/bad id",
        UserProperty=[("X-Request-Id", "a/b")],
    )
    assert client.one("line1/reply/bad id").json["error"]["param"] == "X-Request-Id"


def test_options_beside_a_picture(client: Factory, daemon: DaemonProcess) -> None:
    """Priority, deadline and id are properties; what operators see of the job is no picture."""
    client.publish(
        f"{INFER}/squares",
        SCENE,
        ResponseTopic="line1/reply/options",
        MessageExpiryInterval=60,
        UserProperty=[("X-Edge-Priority", "critical")],
    )
    client.one("line1/reply/options")
    (job,) = daemon.get("/admin/v1/jobs?limit=1").json()["jobs"]
    wanted = ("infer", "infer squares", "mqtt", "critical", "line1/reply/options")
    assert (job["kind"], job["line"], job["door"], job["priority"], job["client"]) == wanted
    assert 0 < job["deadline"] - job["created"] <= 60
    shown = daemon.get(f"/admin/v1/jobs/{job['id']}").json()
    assert shown["request"]["data"] == f"{len(SCENE)} bytes"
    assert boxes(shown["result"]) == BOXES
    response = daemon.get(f"/v1/responses/resp_{job['id']}").json()
    assert (response["status"], response["model"]) == ("completed", "squares")
    assert boxes(response["result"]) == BOXES


def test_cancelling_a_chain(client: Factory, daemon: DaemonProcess) -> None:
    """By the id that stands in a property; also while it is one of many."""
    ids = [f"chain {number}" for number in range(6)]
    for one in ids:
        properties = [("line", "A"), ("X-Request-Id", one)]
        client.publish(f"{INFER}/line-report", SCENE, UserProperty=properties)
    client.publish(CANCEL, {"id": ids[-1]})
    replies = [client.one(f"{REPLIES}/{one}").json for one in ids]
    assert {reply["status"] for reply in replies[:-1]} == {"done"}
    assert replies[-1]["status"] in ("cancelled", "done")
    poll(lambda: client.on(f"{REPLIES}/{ids[-1]}"), "the last reply")


def test_a_controller_with_3_1_1(
    daemon: DaemonProcess, shared_broker: Mosquitto, join: Join
) -> None:
    """A camera publishes the file alone, and reads the default topic."""
    camera = join(shared_broker, f"{REPLIES}/#", version=3)
    camera.publish(f"{INFER}/squares", SCENE)
    (reply,) = poll(lambda: list(camera.heard), "a reply")
    assert boxes(reply.json) == BOXES
    assert reply.topic == f"{REPLIES}/{reply.json['id']}"


def test_reply_topics_are_no_inboxes(client: Factory, daemon: DaemonProcess) -> None:
    """An answer that is the next request would go round for ever."""
    client.publish(f"{INFER}/squares", SCENE, ResponseTopic=f"{INFER}/colors")
    poll(lambda: [one for one in client.heard if one.json.get("status") == "failed"], "a refusal")


def test_a_group_of_appliances(broker: Mosquitto, start: Start, join: Join, tmp_path: Path) -> None:
    """`any/infer/MODEL` and `any/chat` go to one of the group each."""
    install_models(tmp_path / DEVICE)
    group = behind(broker, mqtt__shared_group="line")
    daemon = start(folder=tmp_path / DEVICE, yaml=CHAINS, **group).wait_alive()
    poll(lambda: daemon.metrics()["edge_mqtt_connected"], "a subscription")
    client = join(broker, "line1/reply/#")
    client.publish("edge/any/infer/squares", SCENE, ResponseTopic="line1/reply/any")
    assert boxes(client.one("line1/reply/any").json) == BOXES
    client.publish(
        "edge/any/infer/line-report",
        {"image": TEXT, "line": "A"},
        ResponseTopic="line1/reply/any chain",
    )
    assert client.one("line1/reply/any chain").json["status"] == "done"


def test_pictures_survive(broker: Mosquitto, start: Start, join: Join, tmp_path: Path) -> None:
    """What was acknowledged is answered though the daemon is killed at any moment, chains between
    their halves included; what comes twice is the same."""
    install_models(tmp_path / "daemon")
    client = join(broker, "line1/reply/#", name="camera")
    settings = behind(broker, engine__slots=2)
    daemon = start(yaml=CHAINS, **settings).wait_alive()
    poll(lambda: daemon.metrics()["edge_mqtt_connected"], "a subscription")
    topics = {}
    for number in range(12):
        chain = number % 2
        topic = f"line1/reply/{number}"
        topics[topic] = client.publish(
            f"{INFER}/{'line-report' if chain else 'squares'}",
            SCENE,
            ResponseTopic=topic,
            UserProperty=[("line", f"{number}")] if chain else [],
            CorrelationData=b"%d" % number,
        )
        if number in (4, 9):
            poll(lambda: any(map(client.on, topics)), "an answer")
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait(PATIENCE)
            daemon = start(yaml=CHAINS, **settings)
    for topic in topics:
        client.one(topic)
        assert {one.json["status"] for one in client.on(topic)} == {"done"}
        assert len({one.payload for one in client.on(topic)}) == 1
    hello = {"prompt": "Say hello.", "max_tokens": 4}
    client.publish(CHAT, hello, ResponseTopic="line1/reply/last")
    assert client.one("line1/reply/last").json["status"] == "done"
