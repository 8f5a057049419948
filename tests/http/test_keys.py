"""Keys as callers of the HTTP door meet them, made by `edge keys` beside a running daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bert
import httpx
import openai
import pytest
from daemon_process import MODEL, DaemonProcess, poll, running

from edge.access.key import digest_of
from edge.access.signature import sign

TEXT = {"prompt": "The sea is", "max_tokens": 4, "temperature": 0}
Keys = Callable[..., Any]


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    """One that wants keys although only this machine can reach it."""
    folder = tmp_path_factory.mktemp("guarded")
    with running(folder, default_model_path, auth__required="true") as daemon:
        yield daemon.wait_ready()


@pytest.fixture(scope="module")
def edge(guarded: DaemonProcess) -> Keys:
    """The command, on the same machine."""

    def run(*arguments: str) -> Any:
        state = {**os.environ, "EDGE_STATE_DIR": str(guarded.folder / "state")}
        done = subprocess.run(
            [sys.executable, "-m", "edge", *arguments, "--json"],
            env=state,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def key(edge: Keys) -> Callable[..., str]:
    return lambda name, *arguments: str(edge("keys", "add", name, *arguments)["key"])


def ask(daemon: DaemonProcess, token: str | None, body: Any = TEXT, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    headers |= more.pop("headers", {})
    return daemon.http.post(daemon.url + "/v1/completions", json=body, headers=headers, **more)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_no_route_but_health_without_a_key(guarded: DaemonProcess) -> None:
    """Not even whether there is such a route."""
    routes = [
        ("GET", "/v1/models"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
        ("GET", "/admin/v1/status"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/nowhere"),
    ]
    for method, path in routes:
        # Few of them: the more bad keys come from here, the longer a refusal takes.
        answer = guarded.http.request(method, guarded.url + path)
        assert code(answer) == (401, "invalid_api_key"), path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert code(ask(guarded, "edge_wrong")) == (401, "invalid_api_key")
    for path in ("/health", "/health/ready"):
        assert guarded.get(path).status_code == 200


def test_the_official_sdk_with_a_key(guarded: DaemonProcess, key: Keys) -> None:
    token = key("sdk")
    good = openai.OpenAI(base_url=guarded.url + "/v1", api_key=token)
    assert good.completions.create(model=MODEL, **TEXT).usage.completion_tokens == 4  # type: ignore
    bad = openai.OpenAI(base_url=guarded.url + "/v1", api_key="sk-x", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        bad.completions.create(model=MODEL, **TEXT)  # type: ignore[call-overload]


def test_a_key_taken_away_closes_at_once(guarded: DaemonProcess, key: Keys, edge: Keys) -> None:
    token = key("gone")
    assert ask(guarded, token).status_code == 200
    newer = edge("keys", "rotate", "gone", "--overlap", "1h")["key"]
    assert (ask(guarded, token).status_code, ask(guarded, newer).status_code) == (200, 200)
    edge("keys", "rm", "gone")
    poll(lambda: ask(guarded, newer).status_code == 401, "refused")


def test_what_keys_are_for(guarded: DaemonProcess, key: Keys) -> None:
    token = key("narrow", "--model", "smol*", "--priority", "normal", "--local-only")
    assert ask(guarded, token).status_code == 200
    for refused in (
        {"model": "gemma"},
        {"edge": {"priority": "critical"}},
        {"edge": {"route": "cloud"}},
    ):
        assert code(ask(guarded, token, {**TEXT, **refused})) == (403, "permission_denied")
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/metrics", "/admin/v1/status", "/admin/v1/jobs"):
        assert code(guarded.http.get(guarded.url + path, headers=headers))[0] == 403


def test_limits_and_what_was_used(guarded: DaemonProcess, key: Keys) -> None:
    token = key("counted", "--requests-per-minute", "2", "--tokens-per-day", "1000")
    headers = {"X-API-Key": token}
    answer = guarded.http.post(guarded.url + "/v1/completions", json=TEXT, headers=headers)
    assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    usage = answer.json()["usage"]
    found = guarded.http.get(guarded.url + "/v1/usage", headers=headers).json()
    assert (found["key"], found["requests"]) == ("counted", 1)
    assert found["prompt_tokens"] == usage["prompt_tokens"]
    assert found["completion_tokens"] == usage["completion_tokens"]
    assert ask(guarded, token).status_code == 200
    late = ask(guarded, token)
    assert code(late) == (429, "rate_limit_exceeded")
    assert 1 <= int(late.headers["retry-after"]) <= 30


def test_keys_hold_for_vectors_too(guarded: DaemonProcess, key: Keys) -> None:
    """Which models a key is for, and the tokens that it has used."""
    file = guarded.folder / "state" / "models" / "vectors.gguf"
    bert.as_gguf(file, bert.random_bert(seed=5), bert.minilm_tokenizer())
    body = {"model": "vectors", "input": "oil level"}

    def post(token: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        url = guarded.url + "/v1/embeddings"
        return guarded.http.post(url, json={**body, **more}, headers=headers)

    token = key("reader", "--model", "vec*", "--priority", "normal")
    headers = {"Authorization": f"Bearer {token}"}

    def used() -> httpx.Response:
        return guarded.http.get(guarded.url + "/v1/usage", headers=headers)

    poll(lambda: used().status_code == 200, "the key is known")
    refused: list[dict[str, Any]] = [
        {"model": MODEL},
        {"model": "nobody"},
        {"edge": {"priority": "critical"}},
    ]
    for more in refused:
        assert code(post(token, **more)) == (403, "permission_denied")
    assert used().json()["prompt_tokens"] == 0
    tokens = post(token).json()["usage"]["prompt_tokens"]
    assert used().json()["prompt_tokens"] == tokens > 0


def test_kept_answers_are_their_keys_own(guarded: DaemonProcess, key: Keys) -> None:
    mine, other = key("mine"), key("other")
    kept = ask(guarded, mine, headers={"Prefer": "respond-async"})
    place = guarded.url + kept.headers["location"]

    def get(token: str) -> httpx.Response:
        return guarded.http.get(place, headers={"Authorization": f"Bearer {token}"})

    poll(lambda: get(mine).json()["status"] == "incomplete", "an answer")  # at 4 tokens
    assert code(get(other)) == (404, "job_not_found")
    headers = {"Authorization": f"Bearer {other}"}
    assert guarded.http.post(place + "/cancel", headers=headers).status_code == 404


def test_signed_requests_over_http(guarded: DaemonProcess, key: Keys) -> None:
    """With a query and a body; once."""
    number, word = key("plc", "--signed").split("_", 2)[1:]
    body, now = json.dumps(TEXT).encode(), str(int(time.time()))
    mark = sign(digest_of(word), "POST", "/v1/completions?a=%20b", now, body)
    headers = {"X-Edge-Key": number, "X-Edge-Timestamp": now, "X-Edge-Signature": mark}
    headers["Content-Type"] = "application/json"

    def send(content: bytes) -> httpx.Response:
        url = guarded.url + "/v1/completions?a=%20b"
        return guarded.http.post(url, content=content, headers=headers)

    assert code(send(body + b" "))[0] == 401
    assert send(body).status_code == 200
    assert code(send(body)) == (401, "invalid_api_key")


def test_commands_of_this_machine_need_no_key(guarded: DaemonProcess, edge: Keys) -> None:
    """What the daemon wrote for them is of no use from elsewhere, and not for others to read."""
    assert edge("status", "--url", guarded.url)["models"][0]["name"] == MODEL
    own = guarded.folder / "state" / "keys" / "own"
    assert own.stat().st_mode & 0o777 == 0o600
    assert "own" not in {one["name"] for one in edge("keys", "list")}


def test_who_may_come_at_all(default_model_path: Path, tmp_path: Path) -> None:
    with running(tmp_path, default_model_path, http__allow_ips="[10.0.0.0/8]") as daemon:
        poll(lambda: daemon.get("/health").status_code == 200, "health")
        answer = daemon.get("/v1/models")
        assert code(answer) == (403, "permission_denied")
        assert "http.allow_ips" in answer.json()["error"]["message"]
