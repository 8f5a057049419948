"""What callers without tritonclient send to /v2, wrong things above all."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx_models
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, poll, running

INFER = "/v2/models/adder/infer"
ROW = [1.0, 2.0, 3.0, 4.0]
LOADED = 'edge_model_loads_total{model="patient",outcome="ok"}'
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def adding_daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("requests")
    models = folder / "state" / "models"
    onnx_models.install(models, "adder", onnx_models.adder())
    onnx_models.install(models, "same", onnx_models.identity("FP32"))
    onnx_models.install(models, "texts", onnx_models.identity("BYTES"))
    onnx_models.install(models, "patient", onnx_models.patient())
    with running(folder, default_model_path, limits__max_waiting=1024) as daemon:
        yield daemon


def row(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1, 4], "datatype": "FP32", "data": ROW, **more}


def refused(answer: httpx.Response, status: int = 400) -> str:
    """The protocol's error, whole and nothing beside it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    message: str = body["error"]
    assert message
    return message


def infer(daemon: DaemonProcess, *inputs: Any, **more: Any) -> httpx.Response:
    return daemon.post(INFER, {"inputs": list(inputs), **more})


def test_json_by_hand(adding_daemon: DaemonProcess) -> None:
    """As in the protocol's own example, nested too."""
    answer = infer(adding_daemon, row(), row("b", data=[ROW]), id="42")
    assert answer.json() == {
        "model_name": "adder",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 4.0, 6.0, 8.0]}
        ],
    }
    assert answer.headers["x-edge-route"] == "local"
    assert answer.headers["x-edge-model"] == "adder"


def test_the_models_name_in_the_body(adding_daemon: DaemonProcess) -> None:
    """It may be there, and has to be the path's."""
    assert infer(adding_daemon, row(), row("b"), model_name="adder").status_code == 200
    assert "model_name" in refused(infer(adding_daemon, row(), row("b"), model_name="other"))
    assert "model_version" in refused(infer(adding_daemon, row(), row("b"), model_version="1"))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "inputs"),
        ([row(shape=[1, 2])], "inputs[0].data"),
        ([row(shape=[-1, 4])], "inputs[0].shape[0]"),
        ([row(shape=[1 << 30, 1]), row("b")], "inputs[0].data"),
        ([row(data=[[1, 2], [3]])], "inputs[0].data"),
        ([row(data=["1"])], "inputs[0].data"),
        ([row(datatype="FP33")], "inputs[0].datatype"),
        ([row(), row()], "`a` is there twice"),
        ([row()], "`b`"),
        ([row(), row("b"), row("c")], "`c`"),
        ([row(), row("b", datatype="INT32", data=[1, 2, 3, 4])], "INT32"),
        ([row(parameters={"binary_data_size": 1 << 32})], "inputs[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_tensors(adding_daemon: DaemonProcess, inputs: list[Any], words: str) -> None:
    """Each is told by its place or its name, and nothing is computed."""
    assert words in refused(infer(adding_daemon, *inputs))


def test_four_gigabytes_in_a_kilobyte(adding_daemon: DaemonProcess) -> None:
    """What a shape promises is never made room for."""
    promise = {"name": "a", "shape": [1 << 20, 1 << 10], "datatype": "FP32"}
    before = adding_daemon.resources()
    for parameters in ({"binary_data_size": 1 << 32}, {"binary_data_size": 1024}):
        header = json.dumps({"inputs": [{**promise, "parameters": parameters}]}).encode()
        answer = adding_daemon.http.post(
            adding_daemon.url + INFER,
            content=header + bytes(1024),
            headers={LENGTH: str(len(header))},
        )
        assert "binary_data_size" in refused(answer)
    assert adding_daemon.resources()[1] - before[1] < 64 << 20


@pytest.mark.parametrize("value", ["NaN", "-Infinity"])
def test_nan_in_json(adding_daemon: DaemonProcess, value: str) -> None:
    body = json.dumps({"inputs": [row()]}).replace("1.0", value)
    answer = adding_daemon.http.post(adding_daemon.url + INFER, content=body)
    assert "binary data" in refused(answer)


def test_nan_out_of_a_model(adding_daemon: DaemonProcess) -> None:
    """An answer in JSON is a refusal then, for null would be another value."""
    data = bytes.fromhex("0000c07f0000807f")
    given = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
    header = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": 8}}]}).encode()
    answer = adding_daemon.http.post(
        adding_daemon.url + "/v2/models/same/infer",
        content=header + data,
        headers={LENGTH: str(len(header))},
    )
    assert "`y` has NaN" in refused(answer)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"null", b"\xff", b"[" * 1_000_000, b'{"inputs": ' * 100_000]
)
def test_what_is_no_request(adding_daemon: DaemonProcess, raw: bytes) -> None:
    refused(adding_daemon.http.post(adding_daemon.url + INFER, content=raw))


@pytest.mark.parametrize("length", ["-1", "1.5", "x", "9" * 400, "1000000"])
def test_wrong_lengths_of_the_header(adding_daemon: DaemonProcess, length: str) -> None:
    answer = adding_daemon.http.post(
        adding_daemon.url + INFER, json={"inputs": [row()]}, headers={LENGTH: length}
    )
    assert LENGTH in refused(answer)


def test_texts_that_are_not_utf8(adding_daemon: DaemonProcess) -> None:
    """Neither a failed worker nor another text."""
    given = {"name": "x", "shape": [1, 1], "datatype": "BYTES"}
    header = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": 5}}]}).encode()
    answer = adding_daemon.http.post(
        adding_daemon.url + "/v2/models/texts/infer",
        content=header + b"\1\0\0\0\xff",
        headers={LENGTH: str(len(header))},
    )
    assert "UTF-8" in refused(answer)


def test_content_codings(adding_daemon: DaemonProcess) -> None:
    """A bomb, and codings that are not known."""
    bomb = gzip.compress(bytes(64 << 20))
    answer = adding_daemon.http.post(
        adding_daemon.url + INFER, content=bomb, headers={"Content-Encoding": "gzip"}
    )
    assert "max_body_mb" in refused(answer, 413)
    answer = adding_daemon.http.post(
        adding_daemon.url + INFER, content=b"", headers={"Content-Encoding": "br"}
    )
    assert "`br`" in refused(answer)


def test_too_large_a_body(adding_daemon: DaemonProcess) -> None:
    answer = adding_daemon.http.post(adding_daemon.url + INFER, content=bytes(9 << 20))
    assert "max_body_mb" in refused(answer, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/v2/models/adder/versions/0", 404),
        ("GET", "/v2/models/adder/versions/-1", 400),
        ("GET", f"/v2/models/adder/versions/{'9' * 400}", 400),
        ("GET", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("POST", "/v2/repository/models/adder/load", 404),
    ],
)
def test_wrong_places(adding_daemon: DaemonProcess, method: str, path: str, status: int) -> None:
    """Errors below /v2 are the protocol's, those of other routes OpenAI's."""
    refused(adding_daemon.http.request(method, adding_daemon.url + path), status)
    other = adding_daemon.get("/v1/nowhere").json()
    assert other["error"]["code"] == "not_found"


def test_headers_that_ask_for_more(adding_daemon: DaemonProcess) -> None:
    """Priority and deadline as on every route; nobody else can compute it."""
    body = {"inputs": [row(), row("b")]}
    fine = adding_daemon.post(INFER, body, x_edge_priority="batch", x_edge_deadline_ms="60000")
    assert fine.status_code == 200
    assert "Priority" in refused(adding_daemon.post(INFER, body, x_edge_priority="soon"))
    refused(adding_daemon.post(INFER, body, x_edge_route="cloud"), 503)


def test_a_client_that_leaves(adding_daemon: DaemonProcess) -> None:
    """Its work ends with it: the books say so, and the model answers others."""
    counted = 'edge_requests_total{door="http",route="local",status="cancelled"}'
    before = adding_daemon.metrics().get(counted, 0.0)
    rounds = {"name": "rounds", "shape": [1, 1], "datatype": "INT64", "data": [3_000_000]}
    body = json.dumps({"inputs": [row("x"), rounds]}).encode()
    head = (
        f"POST /v2/models/patient/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", adding_daemon.port), PATIENCE) as client:
        client.sendall(head.encode() + body)
        # Nobody else asks for this model: it was loaded for the request.
        poll(lambda: LOADED in adding_daemon.metrics(), "begun")
    poll(lambda: adding_daemon.metrics().get(counted, 0.0) == before + 1, "cancelled")
    assert infer(adding_daemon, row(), row("b")).status_code == 200


async def test_a_hundred_at_once_while_a_chat_streams(adding_daemon: DaemonProcess) -> None:
    """All are right, and so is the chat: the same as alone, and to its end."""
    prompt = {"model": MODEL, "prompt": "One two", "temperature": 0, "max_tokens": 64}
    alone = adding_daemon.wait_ready().post("/v1/completions", prompt).json()["choices"][0]["text"]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=adding_daemon.url, timeout=PATIENCE, limits=limits
    ) as http:

        async def add(number: int) -> list[float]:
            first = row(data=[float(number)] * 4)
            answer = await http.post(INFER, json={"inputs": [first, row("b")]})
            assert answer.status_code == 200, answer.text
            found: list[float] = answer.json()["outputs"][0]["data"]
            return found

        asked = {**prompt, "stream": True}
        async with http.stream("POST", "/v1/completions", json=asked) as stream:
            lines = stream.aiter_lines()
            events = [await lines.__anext__()]
            sums = await asyncio.gather(*[add(number) for number in range(100)])
            events += [line async for line in lines]
    assert sums == [[number + one for one in ROW] for number in range(100)]
    told = [line.removeprefix("data: ") for line in events if line]
    assert told.pop() == "[DONE]"
    assert "".join(json.loads(one)["choices"][0]["text"] for one in told) == alone
