"""/v1/embeddings and /v1/rerank of a daemon, by OpenAI's SDK and with plain requests."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import batch_client
import bert
import httpx
import numpy as np
import numpy.typing as npt
import onnx_models
import onnxruntime
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, poll, running
from openai import BadRequestError, NotFoundError, OpenAI
from tokenizers import Tokenizer

TEXTS = bert.SENTENCES


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, default_model_path: Any) -> Iterator[Any]:
    """A daemon with MiniLM as it is pulled, a ranker, a GGUF file that embeds, and one that
    generates."""
    folder = tmp_path_factory.mktemp("reader")
    models = folder / "state" / "models"
    tokenizer = bert.minilm_tokenizer()
    onnx_models.install(
        models,
        "minilm",
        onnx_models.fetched(onnx_models.MINILM_INT8, "model.onnx"),
        manifest="task: embed\ntext: {max_tokens: 256}\n",
        tokenizer__json=tokenizer,
    )
    ranker = bert.as_onnx(bert.random_bert(seed=7))
    manifest = "task: rerank\ntext: {max_tokens: 256}\n"
    onnx_models.install(models, "ranker", ranker, manifest=manifest, tokenizer__json=tokenizer)
    onnx_models.install(models, "sums", onnx_models.adder())
    bert.as_gguf(models / "small.gguf", bert.random_bert(seed=5), tokenizer)
    settings = {"models__embedding": "minilm", "limits__max_body_mb": 9}
    with running(folder, default_model_path, **settings) as daemon:
        yield daemon
        daemon.wait_idle()


@pytest.fixture(scope="module")
def sdk(reader: DaemonProcess) -> Iterator[OpenAI]:
    """Without strict checks of types: it asks for base64 by itself, which its types do not have."""
    url = reader.wait_ready().url + "/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Tokenizer.from_file(str(bert.minilm_tokenizer()))
    found.no_padding()
    found.no_truncation()
    return found


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """The vectors of TEXTS by onnxruntime alone: the mean of all tokens, of length 1."""
    path = onnx_models.fetched(onnx_models.MINILM_INT8, "model.onnx")
    session = onnxruntime.InferenceSession(path)
    found = []
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        mean = session.run(["last_hidden_state"], inputs)[0][0].mean(axis=0)
        found.append(mean / np.linalg.norm(mean))
    return np.array(found)


def vectors(answer: Any) -> npt.NDArray[np.float32]:
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data], np.float32)


def refusal(daemon: DaemonProcess, path: str, body: Any) -> tuple[int, str | None, str]:
    """Status, param and message."""
    answer = daemon.post(path, body)
    assert answer.status_code >= 400, answer.text[:200]
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


def test_vectors_are_those_of_onnxruntime(sdk: OpenAI, plain: Any, tokenizer: Tokenizer) -> None:
    """As numbers and as base64, which the SDK asks for by itself; with the tokens counted."""
    tokens = sum(len(tokenizer.encode(text).ids) for text in TEXTS)
    for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = sdk.embeddings.create(model="minilm", input=TEXTS, **form)  # type: ignore[call-overload]
        data = answer.data
        if form == {"encoding_format": "base64"}:
            found = np.array(
                [np.frombuffer(base64.b64decode(one.embedding), "<f4") for one in data]
            )
        else:
            found = vectors(answer)
        assert found.shape == plain.shape
        assert (found * plain).sum(axis=1).min() > 0.9999
        assert answer.model == "minilm"
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens


def test_all_forms_of_input_mean_the_same(sdk: OpenAI, plain: Any, tokenizer: Tokenizer) -> None:
    """A text, texts, token ids, lists of them."""
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    forms: list[Any] = [TEXTS[0], [TEXTS[0]], ids[0], [ids[0]]]
    for form in forms:
        answer = sdk.embeddings.create(model="minilm", input=form)
        assert (vectors(answer) * plain[:1]).sum(axis=1).min() > 0.9999


def test_fewer_dimensions(sdk: OpenAI, plain: Any) -> None:
    """The leading ones, at length 1."""
    found = vectors(sdk.embeddings.create(model="minilm", input=TEXTS, dimensions=96))
    short = plain[:, :96] / np.linalg.norm(plain[:, :96], axis=1, keepdims=True)
    assert found.shape == (len(TEXTS), 96)
    assert (found * short).sum(axis=1).min() > 0.9999


def test_as_many_texts_as_openai_takes(sdk: OpenAI, plain: Any) -> None:
    """2,048 in one request, each in its place."""
    short = [at for at, text in enumerate(TEXTS) if len(text) < 20]
    numbers = np.random.default_rng(3).choice(short, 2048)
    answer = sdk.embeddings.create(model="minilm", input=[TEXTS[at] for at in numbers])
    assert (vectors(answer) * plain[numbers]).sum(axis=1).min() > 0.9999


def test_many_at_once_get_their_own(sdk: OpenAI, plain: Any) -> None:
    """Their rows are computed together, and never mixed up."""

    def ask(at: int) -> float:
        some = [at % len(TEXTS), (at * 7) % len(TEXTS)]
        answer = sdk.embeddings.create(model="minilm", input=[TEXTS[one] for one in some])
        return float((vectors(answer) * plain[some]).sum(axis=1).min())

    with ThreadPoolExecutor(16) as pool:
        assert min(pool.map(ask, range(64))) > 0.9999


def test_gguf_file_that_embeds(sdk: OpenAI, reader: DaemonProcess, tokenizer: Tokenizer) -> None:
    """In its own worker, against a forward pass in numpy; it does not chat."""
    model = bert.random_bert(seed=5)
    reference = np.array([bert.sentence(model, tokenizer, text) for text in TEXTS])
    answer = sdk.embeddings.create(model="small", input=TEXTS)
    assert (vectors(answer) * reference).sum(axis=1).min() > 0.9999
    assert reader.status("small")["facts"]["pooling"] == "mean"
    turn: Any = {"role": "user", "content": "hello"}
    with pytest.raises(BadRequestError, match="/v1/embeddings") as refused:
        sdk.chat.completions.create(model="small", messages=[turn])
    assert refused.value.param == "model"


def test_worker_that_dies_is_a_pause(
    sdk: OpenAI, reader: DaemonProcess, tokenizer: Tokenizer
) -> None:
    """What it was computing is computed by the next one."""
    reference = bert.sentence(bert.random_bert(seed=5), tokenizer, TEXTS[0])
    sdk.embeddings.create(model="small", input="loads it")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sdk.embeddings.create, model="small", input=[TEXTS[0]] * 2048)
        poll(lambda: reader.status("small")["stats"]["running"], "it is computed")
        os.kill(reader.status("small")["pid"], signal.SIGKILL)
        found = vectors(asked.result(PATIENCE))
    assert len(found) == 2048
    assert (found * reference).sum(axis=1).min() > 0.9999
    assert reader.status("small")["restarts"] == 1


def test_model_that_is_left_out(reader: DaemonProcess) -> None:
    """It is the configuration's; `default` is the same."""
    for named in ({}, {"model": "default"}):
        answer = reader.post("/v1/embeddings", {"input": "a pump", **named})
        assert answer.headers["x-edge-model"] == "minilm"
        assert answer.headers["x-edge-route"] == "local"
    answer = reader.post("/v1/rerank", {"query": "a", "documents": ["b"]})
    assert answer.headers["x-edge-model"] == "ranker"


def test_model_that_makes_no_vectors_is_refused(sdk: OpenAI, reader: DaemonProcess) -> None:
    """With what it is; one that is not there is not found."""
    for model, words in ((MODEL, "generates text"), ("ranker", "rerank"), ("sums", "tensors")):
        with pytest.raises(BadRequestError, match=words) as refused:
            sdk.embeddings.create(model=model, input="a pump")
        assert refused.value.param == "model"
    with pytest.raises(NotFoundError):
        sdk.embeddings.create(model="nobody", input="a pump")
    status, param, _ = refusal(
        reader, "/v1/rerank", {"model": "small", "query": "a", "documents": ["b"]}
    )
    assert (status, param) == (400, "model")


BAD: dict[str, tuple[Any, str | None]] = {
    "nothing": ([], "input"),
    "an empty text": ("", "input"),
    "an empty one of several": (["a", "", "b"], "input[1]"),
    "an empty list of ids": ([[1], []], "input[1]"),
    "a mixture": (["a", 1], "input"),
    "a number": (7, "input"),
    "a lie": ([True], "input[0]"),
    "too many": (["a"] * 2049, "input"),
    "a foreign token": ([[101, 30522]], "input[0]"),
    "a negative token": ([-1], "input[0]"),
    "a text that is too long": (["short", "pump " * 300], "input[1]"),
    "eight megabytes": ("x" * 8_000_000, "input[0]"),
    "a million ids": ([1] * 1_000_000, None),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_its_place(reader: DaemonProcess, case: str) -> None:
    """Nothing of it is computed, and the daemon goes on."""
    given, place = BAD[case]
    status, param, _ = refusal(reader, "/v1/embeddings", {"input": given})
    assert (status, param) == (400, place)


def test_bad_fields_are_refused_by_name(reader: DaemonProcess) -> None:
    """Those of both routes."""
    fields: list[tuple[str, Any, int]] = [
        ("dimensions", 385, 400),
        ("dimensions", 0, 400),
        ("encoding_format", "hex", 400),
        ("input_type", "query", 400),
        ("prompt", "x", 400),
        ("edge", {"route": "cloud"}, 503),
    ]
    for name, value, expected in fields:
        body = {"input": "a pump", name: value}
        status, param, _ = refusal(reader, "/v1/embeddings", body)
        assert (status, (param or "").split(".")[0]) == (expected, name)
    for name, value in (("top_n", 0), ("documents", []), ("query", " "), ("documents", [1])):
        body = {"query": "a", "documents": ["b"], name: value}
        status, param, _ = refusal(reader, "/v1/rerank", body)
        assert (status, (param or "").split("[")[0]) == (400, name)


def test_broken_text_is_no_json(reader: DaemonProcess) -> None:
    """A lone surrogate has no meaning in JSON that msgspec reads; NUL is a character."""
    raw = b'{"input": "\\ud800"}'
    assert httpx.post(reader.url + "/v1/embeddings", content=raw).status_code == 400
    answer = reader.post("/v1/embeddings", {"input": "pump\x00 station"})
    assert answer.status_code == 200


def test_deadline_that_has_passed(reader: DaemonProcess) -> None:
    """Nothing is computed for it."""
    body = {"input": ["pump " * 200] * 2048, "edge": {"deadline_ms": 1}}
    assert refusal(reader, "/v1/embeddings", body)[0] == 408


def test_documents_are_ranked(reader: DaemonProcess, tokenizer: Tokenizer) -> None:
    """By the scores of a forward pass in numpy, the best first."""
    model, query = bert.random_bert(seed=7), "Why did the press stop?"
    expected = [bert.score(model, tokenizer, query, text) for text in TEXTS]
    body = {"query": query, "documents": TEXTS, "model": "ranker"}
    answer = reader.post("/v1/rerank", body).json()
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert np.allclose([found[at] for at in range(len(TEXTS))], expected, atol=1e-4)
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert "document" not in answer["results"][0]
    assert answer["usage"]["total_tokens"] > 0
    short = {**body, "top_n": 2, "return_documents": True}
    results = reader.post("/v1/rerank", short).json()["results"]
    assert [one["index"] for one in results] == [one["index"] for one in answer["results"]][:2]
    assert results[0]["document"] == {"text": TEXTS[results[0]["index"]]}
    as_objects = {**body, "documents": [{"text": text} for text in TEXTS]}
    again = reader.post("/v1/rerank", as_objects).json()["results"]
    assert [one["index"] for one in again] == [one["index"] for one in answer["results"]]


def test_models_that_read_texts_are_listed(sdk: OpenAI) -> None:
    """Where clients choose one."""
    assert {"minilm", "ranker", "small", MODEL} <= {model.id for model in sdk.models.list()}


def test_routes_are_described(reader: DaemonProcess) -> None:
    """In the document that tools read."""
    document = json.loads(reader.get("/openapi.json").text)
    assert {"/v1/embeddings", "/v1/rerank"} <= set(document["paths"])
    assert {"EmbeddingBody", "RerankBody"} <= set(document["components"]["schemas"])


def test_a_batch_of_embeddings(sdk: OpenAI) -> None:
    """Vectors as live requests get them, by whichever model; what cannot be is refused alone."""
    url = "/v1/embeddings"
    bodies: dict[str, dict[str, Any]] = {
        "named": {"model": "minilm", "input": TEXTS[:3]},
        "configured": {"input": TEXTS[1], "dimensions": 8},
        "a file": {"model": "small", "input": [TEXTS[2]], "encoding_format": "base64"},
        "unknown": {"model": "no-such-model", "input": "x"},
        "a ranker": {"model": "ranker", "input": "x"},
        "empty": {"model": "minilm", "input": []},
        "webhook": {"model": "minilm", "input": "x", "edge": {"webhook": "http://127.0.0.1/"}},
    }
    lines = [
        {"custom_id": name, "method": "POST", "url": url, "body": body}
        for name, body in bodies.items()
    ]
    done = batch_client.wait(sdk, batch_client.create(sdk, lines, url))
    assert done.request_counts.model_dump() == {"total": 7, "completed": 3, "failed": 4}
    answers = {
        one["custom_id"]: one["response"]["body"]
        for one in batch_client.read(sdk, done.output_file_id)
    }
    for name in ("named", "configured", "a file"):
        live = httpx.post(f"{sdk.base_url}embeddings", json=bodies[name]).raise_for_status().json()
        live.pop("edge"), answers[name].pop("edge")
        assert answers[name] == live
    refused = {
        one["custom_id"]: (one["response"]["status_code"], one["response"]["body"]["error"])
        for one in batch_client.read(sdk, done.error_file_id)
    }
    assert {name: status for name, (status, _) in refused.items()} == {
        "unknown": 404,
        "a ranker": 400,
        "empty": 400,
        "webhook": 400,
    }
    assert refused["webhook"][1]["param"] == "edge.webhook"
