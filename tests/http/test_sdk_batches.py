"""/v1/files and /v1/batches through the official SDK, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from batch_client import create, jsonl, read, upload, wait
from daemon_process import MODEL, DaemonProcess, poll
from openai import OpenAI

CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4},
    TEXT: {"prompt": "The sea is", "max_tokens": 4},
    RESPONSE: {"input": "Say hello.", "max_output_tokens": 4},
}


def line(custom_id: str, url: str = TEXT, **body: Any) -> dict[str, Any]:
    fields = {"model": MODEL, "temperature": 0, **BODIES[url], **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": fields}


@pytest.fixture
def long_batch(client: OpenAI) -> Iterator[Any]:
    """A batch that would take for ever, cancelled at the end."""
    lines = [line(f"long {n}", max_tokens=400, ignore_eos=True) for n in range(100)]
    batch = create(client, lines)
    yield wait(client, batch, "in_progress")
    client.batches.cancel(batch.id)
    wait(client, batch)


@pytest.mark.parametrize("endpoint", list(BODIES))
def test_a_batch(client: OpenAI, endpoint: str) -> None:
    """Every line is answered as the endpoint answers, in the order of the input."""
    names = ["zebra", "über", "a b", "line-4"]
    lines = [line(name, endpoint) for name in names]
    batch = create(client, lines, endpoint, metadata={"shift": "night"})
    assert batch.status in ("validating", "in_progress")
    assert batch.metadata == {"shift": "night"}
    done = wait(client, batch)
    assert (done.status, done.error_file_id, done.errors) == ("completed", None, None)
    assert done.request_counts.model_dump() == {"total": 4, "completed": 4, "failed": 0}
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    answers = read(client, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == names
    assert len({answer["id"] for answer in answers}) == 4
    for answer in answers:
        assert answer["error"] is None
        assert answer["response"]["status_code"] == 200
        assert answer["response"]["request_id"]
        body = answer["response"]["body"]
        assert body["model"] == MODEL
        assert body["object"] == {CHAT: "chat.completion", TEXT: "text_completion"}.get(
            endpoint, "response"
        )


def test_a_batch_says_what_a_live_request_says(client: OpenAI) -> None:
    """The same text, for each kind of answer."""
    for endpoint in (TEXT, RESPONSE):
        done = wait(client, create(client, [line("one", endpoint)], endpoint))
        body = read(client, done.output_file_id)[0]["response"]["body"]
        if endpoint == TEXT:
            live = client.completions.create(model=MODEL, temperature=0, **BODIES[TEXT])
            assert body["choices"][0]["text"] == live.choices[0].text
        else:
            response = client.responses.create(model=MODEL, temperature=0, **BODIES[RESPONSE])
            text = body["output"][0]["content"][0]["text"]
            assert (text, body["status"]) == (response.output_text, "incomplete")


def test_a_batch_of_tool_calls(client: OpenAI) -> None:
    """A line with tools is answered with a call; one with tools that cannot be is refused alone."""
    parameters = {"type": "object", "properties": {"line": {"enum": ["A", "B"]}}}
    function = {"name": "stop", "parameters": {**parameters, "required": ["line"]}}
    offer: dict[str, Any] = {"tools": [{"type": "function", "function": function}]}
    named = {"type": "function", "function": {"name": "stop"}}
    lines = [
        line("call", CHAT, **offer, tool_choice=named, max_tokens=60),
        line("unknown", CHAT, tool_choice=named),
    ]
    batch = wait(client, create(client, lines, CHAT))
    (done,), (refused,) = read(client, batch.output_file_id), read(client, batch.error_file_id)
    (call,) = done["response"]["body"]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["line"] in "AB"
    assert refused["response"]["body"]["error"]["param"] == "tool_choice"


def test_requests_that_cannot_be_answered(client: OpenAI) -> None:
    """They have lines in the error file, as the endpoint would have refused them; others go on."""
    lines = [
        line("good"),
        line("no model", model="gpt-9"),
        line("unknown field", colour="red"),
        line("streamed", stream=True),
        line("too long", prompt="word " * 2000),
        line("hooked", edge={"webhook": "http://127.0.0.1/x"}),
        line("also good", edge={"priority": "critical"}),
    ]
    done = wait(client, create(client, lines))
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": 7, "completed": 2, "failed": 5}
    answers = read(client, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == ["good", "also good"]
    refused = {one["custom_id"]: one["response"] for one in read(client, done.error_file_id)}
    assert {name: answer["status_code"] for name, answer in refused.items()} == {
        "no model": 404,
        "unknown field": 400,
        "streamed": 400,
        "too long": 400,
        "hooked": 400,
    }
    error = refused["no model"]["body"]["error"]
    assert (error["code"], error["type"]) == ("model_not_found", "invalid_request_error")
    assert refused["unknown field"]["body"]["error"]["param"] == "colour"
    assert refused["too long"]["body"]["error"]["code"] == "context_length_exceeded"


def test_more_lines_than_are_queued_at_once(client: OpenAI, daemon: DaemonProcess) -> None:
    """All of them are answered, and the queue never has many."""
    names = [f"line {n}" for n in range(150)]
    content = jsonl([line(name, max_tokens=1, prompt="a") for name in names])
    batch = create(client, b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n\r\n").rstrip())
    most = 0

    def ended() -> Any:
        nonlocal most
        counts = daemon.metrics()
        most = max(most, int(counts['edge_jobs{state="queued"}']))
        now = client.batches.retrieve(batch.id)
        return now.status == "completed" and now

    done = poll(ended, "an end")
    assert most <= 64
    answers = read(client, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == names


def test_cancelled_in_the_middle(client: OpenAI, daemon: DaemonProcess) -> None:
    """What was answered is kept, and every other line is in the error file, fed or not."""
    names = [f"line {n}" for n in range(100)]
    slow = {"max_tokens": 300, "ignore_eos": True}
    lines = [line(name, **({} if at < 3 else slow)) for at, name in enumerate(names)]
    batch = create(client, lines)
    poll(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 3, "some answers")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = wait(client, batch)
    assert done.status == "cancelled"
    assert done.cancelling_at <= done.cancelled_at
    answers, rest = read(client, done.output_file_id), read(client, done.error_file_id)
    assert len(answers) >= 3
    assert sorted(one["custom_id"] for one in answers + rest) == sorted(names)
    assert {one["error"]["code"] for one in rest} == {"batch_cancelled"}
    assert daemon.get("/admin/v1/jobs?state=queued").json()["jobs"] == []
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_an_ended_batch_cannot_be_cancelled(client: OpenAI) -> None:
    """It has its output."""
    done = wait(client, create(client, [line("one")]))
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(done.id)


def test_the_same_key_gives_the_same_batch(client: OpenAI, daemon: DaemonProcess) -> None:
    """A client that did not hear the answer asks again, and has one batch."""
    file = upload(client, [line("one")])
    body = {"input_file_id": file.id, "endpoint": TEXT, "completion_window": "24h"}
    first, second = (daemon.post("/v1/batches", body, Idempotency_Key="k") for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    other = daemon.post("/v1/batches", {**body, "metadata": {"a": "b"}}, Idempotency_Key="k")
    assert other.status_code == 422
    assert daemon.post("/v1/batches", body, Idempotency_Key="k" * 256).status_code == 400
    done = wait(client, client.batches.retrieve(first.json()["id"]))
    assert done.request_counts.total == 1


def test_a_file(client: OpenAI) -> None:
    """Kept byte for byte, listed, described, and gone when it is deleted."""
    content = b'{"a": "\xc3\xbc"}\r\n' * 3
    file = client.files.create(
        file=("n\u00e4me.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.bytes, file.filename, file.purpose) == (len(content), "n\u00e4me.jsonl", "batch")
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    assert file.id in [one.id for one in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            gone(file.id)
        assert refused.value.code == "file_not_found"


def test_lists_in_pages(client: OpenAI) -> None:
    """The SDK finds the way from page to page."""
    files = [upload(client, [line("one")]) for _ in range(3)]
    batches = [
        client.batches.create(input_file_id=one.id, endpoint=TEXT, completion_window="24h")
        for one in files
    ]
    latest = [one.id for one, _ in zip(client.batches.list(limit=2), range(3), strict=False)]
    assert latest == [one.id for one in reversed(batches)]
    listed = [one.id for one in client.files.list(limit=2)]
    assert [one for one in listed if one in {file.id for file in files}] == [
        one.id for one in reversed(files)
    ]
    ascending = [one.id for one in client.files.list(limit=2, order="asc")]
    assert ascending == sorted(ascending)
    assert set(listed) <= set(ascending)
    for one in batches:
        wait(client, one)


WRONG_FILES: list[tuple[str, bytes, str, int | None, str | None]] = [
    ("not JSON", b'{"custom_id": \n', "invalid_json_line", 1, None),
    ("not text", b"\xff\xfe\x00{\n", "invalid_json_line", 1, None),
    ("no object", b"[1]\n", "invalid_parameter", 1, None),
    ("nothing in it", b"\n\n", "empty_file", None, None),
    (
        "no custom_id",
        jsonl([{**line("x"), "custom_id": ""}]),
        "invalid_parameter",
        1,
        "custom_id",
    ),
    (
        "a custom_id twice",
        jsonl([line("x"), line("y"), line("x")]),
        "duplicate_custom_id",
        3,
        "custom_id",
    ),
    ("another url", jsonl([line("x"), line("y", CHAT)]), "invalid_url", 2, "url"),
    ("another method", jsonl([{**line("x"), "method": "GET"}]), "invalid_method", 1, "method"),
    ("a field too few", b'{"custom_id": "x"}\n', "missing_required_parameter", 1, "method"),
    ("no body", jsonl([{**line("x"), "body": "text"}]), "invalid_parameter", 1, "body"),
    ("too many lines", b"{}\n" + b"\n" * 50_000 + b"{}\n", "too_many_lines", 50_002, None),
]


@pytest.mark.parametrize(
    ("content", "code", "number", "param"),
    [row[1:] for row in WRONG_FILES],
    ids=[row[0] for row in WRONG_FILES],
)
def test_files_that_are_no_input(
    client: OpenAI, content: bytes, code: str, number: int | None, param: str | None
) -> None:
    """The batch fails before anything is asked, and says which line is wrong and how."""
    done = wait(client, create(client, content))
    assert (done.status, done.output_file_id) == ("failed", None)
    assert done.failed_at >= done.created_at
    errors = {error.code: error for error in done.errors.data}
    assert (errors[code].line, errors[code].param) == (number, param)
    assert errors[code].message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint", "/v1/moderations"),
        ("completion_window", "1h"),
        ("metadata", {"key": "v" * 513}),
        ("input_file_id", 7),
        ("colour", "red"),
    ],
)
def test_batches_that_are_refused(
    client: OpenAI, daemon: DaemonProcess, field: str, value: Any
) -> None:
    """By the name of the field."""
    file = upload(client, [line("one")])
    body = {"input_file_id": file.id, "endpoint": TEXT, "completion_window": "24h", field: value}
    refused = daemon.post("/v1/batches", body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(field)


def test_ids_that_are_not_known(client: OpenAI) -> None:
    """404 for each of them, and none leads out of the folder."""
    for unknown in ("batch_0", "x"):
        for call in (client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError) as refused:
                call(unknown)
            assert refused.value.code == "batch_not_found"
    for path in ("..%2Fjobs.sqlite", "%2e%2e", "file-0"):
        with pytest.raises(openai.NotFoundError):
            client.get(f"/files/{path}/content", cast_to=str)
    with pytest.raises(openai.NotFoundError) as missing:
        client.batches.create(input_file_id="file-0", endpoint=TEXT, completion_window="24h")
    assert missing.value.code == "file_not_found"


def test_a_file_in_use(client: OpenAI, long_batch: Any) -> None:
    """It stays until its batch has ended, and can be deleted then."""
    with pytest.raises(openai.ConflictError) as refused:
        client.files.delete(long_batch.input_file_id)
    assert refused.value.code == "file_in_use"
    client.batches.cancel(long_batch.id)
    wait(client, long_batch)
    assert client.files.delete(long_batch.input_file_id).deleted


PURPOSE = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\n\r\n'
END = b"--x--\r\n"
FORMS: list[tuple[str, bytes, str]] = [
    ("no multipart", b'{"purpose": "batch"}', "application/json"),
    ("no boundary", PURPOSE + FILE + END, "multipart/form-data"),
    ("another boundary", PURPOSE + FILE + END, "multipart/form-data; boundary=y"),
    ("nothing", b"", "multipart/form-data; boundary=x"),
    ("no file", PURPOSE + END, "multipart/form-data; boundary=x"),
    ("no purpose", FILE + END, "multipart/form-data; boundary=x"),
    ("two files", PURPOSE + FILE + FILE + END, "multipart/form-data; boundary=x"),
    (
        "an empty file",
        PURPOSE + FILE.replace(b"{}\n", b"") + END,
        "multipart/form-data; boundary=x",
    ),
    ("no end", PURPOSE + FILE, "multipart/form-data; boundary=x"),
    (
        "another purpose",
        PURPOSE.replace(b"batch", b"fine-tune") + FILE + END,
        "multipart/form-data; boundary=x",
    ),
    (
        "a long field",
        PURPOSE.replace(b"batch", b"b" * 5000) + FILE + END,
        "multipart/form-data; boundary=x",
    ),
    ("many fields", PURPOSE * 17 + FILE + END, "multipart/form-data; boundary=x"),
    (
        "a long header",
        PURPOSE.replace(b"form-data", b"f" * 5000) + FILE + END,
        "multipart/form-data; boundary=x",
    ),
]


@pytest.mark.parametrize(
    ("body", "kind"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS]
)
def test_forms_that_are_refused(daemon: DaemonProcess, body: bytes, kind: str) -> None:
    """As the caller's fault, and nothing is kept."""
    before = len(daemon.get("/v1/files").json()["data"])
    refused = daemon.http.post(
        daemon.url + "/v1/files", content=body, headers={"Content-Type": kind}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert len(daemon.get("/v1/files").json()["data"]) == before


def test_a_file_that_is_too_large(client: OpenAI, daemon: DaemonProcess) -> None:
    """413, whether its size is told beforehand or not; nothing of it is kept."""
    before = len(list(client.files.list()))
    with pytest.raises(openai.APIStatusError) as refused:
        upload(client, b"x" * (3 << 20))
    assert refused.value.status_code == 413
    assert "queue.max_file_mb" in refused.value.message
    chunks = (piece for piece in [PURPOSE, FILE[:-2], *[b"x" * (1 << 20)] * 3, b"\r\n", END])
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    chunked = daemon.http.post(daemon.url + "/v1/files", content=chunks, headers=kind)
    assert chunked.status_code == 413
    assert len(list(client.files.list())) == before
