"""Texts in, vectors out: the answer of /v1/embeddings, by a real MiniLM and by a GGUF file."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bert
import numpy as np
import onnx_models
import pytest
from daemon_process import DaemonProcess, poll, running
from factory import DEVICE, REPLIES, Factory, behind
from mosquitto import Mosquitto

EMBED = f"edge/{DEVICE}/embed"
TEXTS = bert.SENTENCES[:4]


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Not that of the other files, whose daemon has the same name."""
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.end()


@pytest.fixture(scope="module")
def reader(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path, shared_broker: Mosquitto
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("reader")
    models = folder / "state" / "models"
    onnx_models.install(
        models,
        "minilm",
        onnx_models.fetched(onnx_models.MINILM_INT8, "model.onnx"),
        manifest="task: embed\ntext: {max_tokens: 256}\n",
        tokenizer__json=bert.minilm_tokenizer(),
    )
    onnx_models.install(models, "sums", onnx_models.adder())
    bert.as_gguf(models / "small.gguf", bert.random_bert(seed=5), bert.minilm_tokenizer())
    settings = behind(shared_broker, limits__max_body_mb=1, models__embedding="minilm")
    with running(folder, default_model_path, **settings) as daemon:
        yield daemon


@pytest.fixture
def daemon(reader: DaemonProcess) -> Iterator[DaemonProcess]:
    reader.new_log()
    poll(lambda: reader.metrics()["edge_mqtt_connected"], "a subscription")
    yield reader
    print(reader.new_log())  # noqa: T201 - pytest shows it when the test has failed
    reader.wait_idle()


def test_a_text(client: Factory, daemon: DaemonProcess) -> None:
    """Plain text in; the answer is that of HTTP, with the appliance's fields at the top."""
    client.publish(EMBED, TEXTS[0], ResponseTopic="line1/reply/vector", CorrelationData=b"\0v")
    heard = client.one("line1/reply/vector")
    answer = heard.json
    assert heard.correlation == b"\0v"
    assert (answer["status"], answer["route"], answer["model"]) == ("done", "local", "minilm")
    live = daemon.post("/v1/embeddings", {"input": TEXTS[0]}).json()
    assert answer["data"] == live["data"]
    assert answer["usage"] == live["usage"]
    assert "response_id" not in answer


@pytest.mark.parametrize("model", ["minilm", "small"])
def test_a_body(client: Factory, daemon: DaemonProcess, model: str) -> None:
    """OpenAI's fields; of an ONNX model and of a GGUF file."""
    body = {"id": f"body {model}", "input": TEXTS, "model": model, "encoding_format": "base64"}
    client.publish(EMBED, body)
    answer = client.one(f"{REPLIES}/body {model}").json
    live = daemon.post("/v1/embeddings", {"input": TEXTS, "model": model}).json()
    for one, other in zip(answer["data"], live["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        assert np.allclose(vector, other["embedding"], atol=1e-5)
    (job,) = daemon.get("/admin/v1/jobs?limit=1").json()["jobs"]
    assert (job["kind"], job["line"]) == (
        "embed",
        "auto small" if model == "small" else "infer minilm",
    )
    assert daemon.get(f"/admin/v1/jobs/{job['id']}").json()["request"]["input"] == TEXTS


def test_what_comes_twice(client: Factory, daemon: DaemonProcess) -> None:
    """The same id and texts: the same bytes. Other texts, when the first have ended: other ones."""
    for _ in range(2):
        client.publish(EMBED, {"id": "again", "input": TEXTS[1]})
        client.wait(f"{REPLIES}/again")
    first, second = client.wait(f"{REPLIES}/again", 2)
    assert first.payload == second.payload
    client.publish(EMBED, {"id": "again", "input": TEXTS[2]})
    assert client.wait(f"{REPLIES}/again", 3)[2].json["data"] != first.json["data"]


BAD: dict[str, tuple[Any, str, str | None]] = {
    "nothing": (b"", "invalid_request_error", None),
    "not UTF-8": (b"\xff\xd8", "invalid_request_error", None),
    "no input": ({"text": "Hi"}, "invalid_request_error", "text"),
    "an empty input": ({"input": []}, "invalid_request_error", "input"),
    "a mixture": ({"input": ["Hi", 7]}, "invalid_request_error", "input"),
    "no such model": ({"input": "Hi", "model": "gone"}, "model_not_found", "model"),
    "a model for tensors": ({"input": "Hi", "model": "sums"}, "invalid_request_error", "model"),
    "the cloud": ({"input": "Hi", "edge": {"route": "cloud"}}, "no_route", "edge.route"),
    "too many tokens": ({"input": "word " * 3000}, "context_length_exceeded", None),
    "dimensions": ({"input": "Hi", "dimensions": 999}, "invalid_request_error", None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_payload(client: Factory, daemon: DaemonProcess, name: str) -> None:
    payload, code, param = BAD[name]
    topic = f"line1/reply/bad {name}"
    client.publish(EMBED, payload, ResponseTopic=topic)
    reply = client.one(topic).json
    assert (reply["status"], reply["error"]["code"]) == ("failed", code), reply
    if param is not None:
        assert reply["error"]["param"] == param


def test_kept_over_http(daemon: DaemonProcess) -> None:
    """With `Prefer: respond-async` it is asked for later, with a key it is computed once."""
    body = {"input": TEXTS[3]}
    live = daemon.post("/v1/embeddings", body).json()
    kept = daemon.post("/v1/embeddings", body, prefer="respond-async")
    assert kept.status_code == 202

    def ended() -> Any:
        found = daemon.get(kept.headers["location"]).json()
        return found if found["status"] == "completed" else None

    found = poll(ended, "an answer")
    assert found["result"]["data"] == live["data"]
    assert (found["model"], found["output"]) == ("minilm", [])
    once = [daemon.post("/v1/embeddings", body, idempotency_key="k") for _ in range(2)]
    assert [one.json()["data"] for one in once] == [live["data"]] * 2
    assert once[1].headers["idempotent-replayed"] == "true"
    other = daemon.post("/v1/embeddings", {"input": "Hi"}, idempotency_key="k")
    assert other.status_code == 422
