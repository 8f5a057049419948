"""Requests that are kept: `Prefer: respond-async`, `Idempotency-Key`, and the admin's view."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, poll

CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0, "max_tokens": 6}
TEXT = {"prompt": "The sea is", "temperature": 0, "max_tokens": 6}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]
LONG = {**TEXT, "max_tokens": 400, "ignore_eos": True}


def text_of(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def wait_done(daemon: DaemonProcess, location: str) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        response: dict[str, Any] = daemon.get(location).json()
        return None if response["status"] in ("queued", "in_progress") else response

    found = poll(done, "an end")
    assert found is not None
    return found


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("prefer", ["respond-async", "wait=10, Respond-Async; foo=1"])
def test_respond_async(daemon: DaemonProcess, path: str, body: Any, prefer: str) -> None:
    """202 and where to ask; there is the text that the live request gets."""
    accepted = daemon.post(path, body, Prefer=prefer)
    assert accepted.status_code == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    assert accepted.headers["x-edge-route"] == "queue"
    assert accepted.json()["object"] == "response"
    response = wait_done(daemon, accepted.headers["location"])
    assert response["id"] == accepted.json()["id"]
    live = daemon.post(path, body).json()
    assert response["output"][0]["content"][0]["text"] == text_of(live)
    assert response["usage"]["output_tokens"] == live["usage"]["completion_tokens"]


def test_the_queue_as_a_route(daemon: DaemonProcess) -> None:
    """Asked for as a route, in the body or in a header, it is the same as to prefer it."""
    in_body = {**TEXT, "edge": {"route": "queue"}}
    responses = [
        daemon.post("/v1/completions", in_body),
        daemon.post("/v1/completions", TEXT, X_Edge_Route="queue"),
        daemon.post("/v1/responses", {"input": "Hi", "edge": {"route": "queue"}}),
    ]
    for accepted in responses:
        assert accepted.status_code == 202
        assert wait_done(daemon, accepted.headers["location"])["output"]
    cloud = daemon.post("/v1/completions", TEXT, Prefer="respond-async", X_Edge_Route="cloud")
    assert cloud.status_code == 503


def test_another_preference(daemon: DaemonProcess) -> None:
    """Is none of ours."""
    assert daemon.post("/v1/completions", TEXT, Prefer="wait=100").status_code == 200


@pytest.mark.parametrize(("path", "body"), [*ROUTES, ("/v1/responses", {"input": "Say hello."})])
def test_the_same_key_gives_the_same_answer(daemon: DaemonProcess, path: str, body: Any) -> None:
    """Computed once, byte for byte the same; the second is marked."""
    body = {**body, "temperature": 1}  # so that computing it again would be noticed
    key = f"same {path}"
    first, second = (daemon.post(path, body, Idempotency_Key=key) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"


def test_the_same_key_with_another_body(daemon: DaemonProcess) -> None:
    """422, and the first one's answer is not touched."""
    daemon.post("/v1/completions", TEXT, Idempotency_Key="other body")
    other = daemon.post("/v1/completions", {**TEXT, "max_tokens": 7}, Idempotency_Key="other body")
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_the_same_key_while_it_runs(daemon: DaemonProcess) -> None:
    """409 with a time to come back; a client that left gets the answer when it comes again."""
    url, key = daemon.url + "/v1/completions", {"Idempotency-Key": "still running"}
    before = daemon.status()["stats"]["running"]
    with closing(HTTPConnection("127.0.0.1", daemon.port)) as leaver:
        kind = {"Content-Type": "application/json"}
        leaver.request("POST", "/v1/completions", json.dumps(LONG), {**kind, **key})
        poll(lambda: (daemon.status()["stats"] or {})["running"] > before, "running")
        again = httpx.post(url, json=LONG, headers=key, timeout=90)
        assert again.status_code == 409
        assert int(again.headers["retry-after"]) >= 1

    def answered() -> httpx.Response | None:
        late = httpx.post(url, json=LONG, headers=key, timeout=90)
        return late if late.status_code == 200 else None

    late = poll(answered, "an answer")
    assert late is not None
    assert late.json()["usage"]["completion_tokens"] == LONG["max_tokens"]


@pytest.mark.parametrize("fields", [{}, {"edge": {"webhook": "http://127.0.0.1:1/"}}])
def test_what_is_computed_later_is_not_streamed(daemon: DaemonProcess, fields: Any) -> None:
    """Nobody listens then."""
    prefer = {} if fields else {"Prefer": "respond-async"}
    refused = daemon.post("/v1/completions", {**TEXT, "stream": True, **fields}, **prefer)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "stream"


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream that ended with `[DONE]`, or the typed events of a Response's."""
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def streamed_text(response: httpx.Response) -> str:
    choices = [event["choices"][0] for event in events(response) if event["choices"]]
    return "".join(str(c.get("text") or c.get("delta", {}).get("content") or "") for c in choices)


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_stream_with_a_key(daemon: DaemonProcess, path: str, body: Any) -> None:
    """It comes as it is computed; asked for again, it is streamed from what was kept."""
    # Drawn, so that it comes in more pieces than one, and not ended by the draw of an end.
    drawn = {"temperature": 1, "ignore_eos": True}
    body = {**body, **drawn, "stream": True, "stream_options": {"include_usage": True}}
    key = f"stream {path}"
    first, second = (daemon.post(path, body, Idempotency_Key=key) for _ in range(2))
    assert first.text.endswith("data: [DONE]\n\n")
    assert second.text.endswith("data: [DONE]\n\n")
    assert streamed_text(first) == streamed_text(second) != ""
    assert len(events(first)) > len(events(second))
    usages = [events(response)[-1]["usage"] for response in (first, second)]
    assert usages[0] == usages[1]
    assert usages[0]["completion_tokens"] == 6


def test_logprobs_of_a_kept_stream(daemon: DaemonProcess) -> None:
    """They are what they were."""
    body = {**CHAT, "stream": True, "logprobs": True, "top_logprobs": 2}

    def listed(response: httpx.Response) -> list[Any]:
        choices = [event["choices"][0] for event in events(response)]
        return [e for c in choices for e in (c["logprobs"] or {}).get("content", [])]

    first, second = (
        daemon.post("/v1/chat/completions", body, Idempotency_Key="stream logprobs")
        for _ in range(2)
    )
    assert listed(first) == listed(second) != []


def test_response_stream_with_a_key(daemon: DaemonProcess) -> None:
    """The same for the newer API."""
    body = {"input": "Say hello.", "stream": True, "max_output_tokens": 6}
    first, second = (
        daemon.post("/v1/responses", body, Idempotency_Key="stream response") for _ in range(2)
    )
    texts = [events(response)[-1]["response"]["output"] for response in (first, second)]
    assert texts[0][0]["content"] == texts[1][0]["content"]


def test_stream_with_a_key_whose_client_left(daemon: DaemonProcess) -> None:
    """It goes on without, and all of it is there for the next who asks."""
    body = {**LONG, "max_tokens": 60, "stream": True}
    key = {"Idempotency-Key": "left stream"}
    with httpx.stream("POST", daemon.url + "/v1/completions", json=body, headers=key) as response:
        next(response.iter_lines())

    def answered() -> httpx.Response | None:
        late = httpx.post(daemon.url + "/v1/completions", json=body, headers=key, timeout=90)
        return late if late.status_code == 200 else None

    late = poll(answered, "an answer")
    assert late is not None
    assert events(late)[-1]["timings"]["predicted_n"] == 60


def test_an_unusable_key(daemon: DaemonProcess) -> None:
    assert daemon.post("/v1/completions", TEXT, Idempotency_Key="").status_code == 400
    assert daemon.post("/v1/completions", TEXT, Idempotency_Key="k" * 256).status_code == 400


def test_errors_of_a_job(daemon: DaemonProcess) -> None:
    """What is found out late is an error of the job; with a key, of the request."""
    long = {"prompt": "word " * 2000}
    accepted = daemon.post("/v1/completions", long, Prefer="respond-async")
    assert accepted.status_code == 202
    failed = wait_done(daemon, accepted.headers["location"])
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "context_length_exceeded"
    direct = daemon.post("/v1/completions", long, Idempotency_Key="too long")
    assert direct.status_code == 400
    assert direct.json()["error"]["code"] == "context_length_exceeded"


def test_the_admins_view(daemon: DaemonProcess) -> None:
    """Listed, shown with request and result, cancelled, tried again."""
    accepted = daemon.post("/v1/completions", TEXT, Prefer="respond-async", X_Edge_Priority="batch")
    job_id = accepted.json()["id"].removeprefix("resp_")
    wait_done(daemon, accepted.headers["location"])
    shown = daemon.get(f"/admin/v1/jobs/{job_id}").json()
    assert shown["state"] == "done"
    assert shown["priority"] == "batch"
    assert shown["request"]["prompt"] == TEXT["prompt"]
    assert text_of(shown["result"])
    assert daemon.get("/admin/v1/jobs?state=done&limit=1").json()["jobs"][0]["id"] == job_id
    assert daemon.http.post(f"{daemon.url}/admin/v1/jobs/{job_id}/retry").json()["changed"] is False
    failed = daemon.post("/v1/completions", {"prompt": "word " * 2000}, Prefer="respond-async")
    failed_id = failed.json()["id"].removeprefix("resp_")
    wait_done(daemon, failed.headers["location"])
    retried = daemon.http.post(f"{daemon.url}/admin/v1/jobs/{failed_id}/retry").json()
    assert retried["changed"] is True
    assert wait_done(daemon, failed.headers["location"])["status"] == "failed"
    assert daemon.get("/admin/v1/jobs?state=odd").status_code == 400
    assert daemon.get("/admin/v1/jobs?limit=x").status_code == 400
    assert daemon.get("/admin/v1/jobs/none").status_code == 404


def test_keys_of_different_callers(daemon: DaemonProcess) -> None:
    """The same idempotency key with another API key is another request: nobody gets an answer
    that was somebody else's."""
    body = {**TEXT, "temperature": 1}
    answers = [
        daemon.post(
            "/v1/completions", body, Idempotency_Key="shared", Authorization=f"Bearer {key}"
        )
        for key in ("a", "b", "a")
    ]
    replayed = ["idempotent-replayed" in answer.headers for answer in answers]
    assert replayed == [False, False, True]
