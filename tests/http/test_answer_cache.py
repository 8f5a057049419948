"""Identical requests: answered from the file where that changes nothing, and never across keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, Start, poll, running

GREEDY = {"prompt": "The sea is", "temperature": 0, "max_tokens": 6}
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def cached(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    """One for all tests here, which each ask something of their own."""
    with running(
        tmp_path_factory.mktemp("cached"), default_model_path, cache__enabled="true"
    ) as daemon:
        yield daemon.wait_ready()


def route(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-edge-route"]


def test_second_time_comes_from_the_cache(cached: DaemonProcess) -> None:
    """The same answer to the letter, its usage that of the first; it says where it came from."""
    body = {**GREEDY, "prompt": "Once upon a time"}
    first, second = (cached.post("/v1/completions", body) for _ in range(2))
    assert (route(first), route(second)) == ("local", "cache")
    assert second.headers["x-edge-model"] == first.headers["x-edge-model"]
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["usage"] == second.json()["usage"]
    assert second.json()["edge"]["attempts"][0]["target"] == "cache"


def test_what_was_computed_whole_can_be_streamed_and_the_reverse(cached: DaemonProcess) -> None:
    """A stream from the cache has the same text, usage and end."""
    streamed = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    whole = cached.post("/v1/chat/completions", CHAT)
    stream = cached.post("/v1/chat/completions", streamed)
    assert route(stream) == "cache"
    lines = [line[6:] for line in stream.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == whole.json()["usage"]["completion_tokens"]
    response = cached.post(
        "/v1/responses", {"input": "Say hello.", "temperature": 0, "max_output_tokens": 6}
    )
    assert route(response) == "cache"


@pytest.mark.parametrize(
    ("fields", "routes"),
    [
        ({"temperature": 1}, ["local", "local"]),
        ({"temperature": 1, "seed": 7}, ["local", "cache"]),
        ({"temperature": 1, "edge": {"cache": True}}, ["local", "cache"]),
        ({"edge": {"cache": False}}, ["local", "local"]),
        ({"n": 2}, ["local", "cache"]),
        ({"logprobs": 2}, ["local", "cache"]),
    ],
)
def test_which_answers_are_used_again(
    cached: DaemonProcess, fields: dict[str, Any], routes: list[str]
) -> None:
    """Those that the request decides, and those that the caller allows."""
    body = {**GREEDY, "prompt": f"The city {sorted(fields)} {fields}", **fields}
    answers = [cached.post("/v1/completions", body) for _ in range(2)]
    assert [route(answer) for answer in answers] == routes
    if routes[1] == "cache":
        assert answers[0].json()["choices"] == answers[1].json()["choices"]


def test_keys_do_not_share(cached: DaemonProcess) -> None:
    """Nobody can find out by asking what another one has asked."""
    body = {**GREEDY, "prompt": "My secret is"}
    keys = ["Bearer a", "Bearer b", "Bearer a", ""]
    answers = [cached.post("/v1/completions", body, Authorization=key) for key in keys]
    assert [route(answer) for answer in answers] == ["local", "local", "cache", "local"]


def test_identical_requests_at_once_are_computed_once(cached: DaemonProcess) -> None:
    """All of them listen to one computation."""
    body = {**GREEDY, "prompt": "Eight clients ask", "max_tokens": 40, "ignore_eos": True}
    before = cached.metrics()["edge_generation_tokens_total"]
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: cached.post("/v1/completions", body), range(8))]
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    assert cached.metrics()["edge_generation_tokens_total"] == before + 40


def test_leaving_a_shared_answer_cuts_nobody(cached: DaemonProcess) -> None:
    """The one who asked first goes; the other has all of it."""
    body = {**GREEDY, "prompt": "Two ask, one leaves", "max_tokens": 60, "ignore_eos": True}
    url = cached.url + "/v1/completions"
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with (
        httpx.stream("POST", url, json=streamed) as first,
        httpx.stream("POST", url, json=streamed) as second,
    ):
        # Both kept: an iterator that is dropped closes its connection.
        ahead, lines = first.iter_lines(), second.iter_lines()
        assert next(ahead)
        assert next(lines)
        first.close()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["usage"]["completion_tokens"] == 60
    cached.wait_idle()


def test_deadline_of_a_shared_answer(cached: DaemonProcess) -> None:
    """It is each caller's own."""
    body = {**GREEDY, "prompt": "A long answer", "max_tokens": 400, "ignore_eos": True}
    late = cached.post("/v1/completions", {**body, "edge": {"deadline_ms": 300}})
    assert late.status_code == 408
    assert late.json()["error"]["code"] == "deadline_exceeded"
    cached.wait_idle()


def test_cache_outlives_the_daemon_and_may_be_deleted(start_quick: Start) -> None:
    """After a kill it is still there; without its file answers are computed."""
    daemon = start_quick(cache__enabled="true").wait_ready()
    assert route(daemon.post("/v1/completions", GREEDY)) == "local"

    def from_the_file() -> bool:
        """And not from who has just computed it, and is still keeping it."""
        assert route(daemon.post("/v1/completions", GREEDY)) == "cache"
        return daemon.metrics()["edge_answer_cache_hits_total"] > 0

    poll(from_the_file, "a kept answer")
    daemon.process.kill()
    daemon.process.wait()
    daemon = start_quick(cache__enabled="true").wait_ready()
    assert route(daemon.post("/v1/completions", GREEDY)) == "cache"
    daemon.stop()
    for file in (daemon.folder / "state").glob("cache.sqlite*"):
        file.unlink()
    daemon = start_quick(cache__enabled="true").wait_ready()
    assert route(daemon.post("/v1/completions", GREEDY)) == "local"


def test_kept_requests_share_with_their_own_key_only(cached: DaemonProcess) -> None:
    """The queue knows whose a request is."""
    body = {**GREEDY, "prompt": "Kept under a key"}
    assert route(cached.post("/v1/completions", body, Authorization="Bearer a")) == "local"

    def kept(key: str) -> str:
        place = cached.post(
            "/v1/completions", body, Authorization=f"Bearer {key}", Prefer="respond-async"
        ).headers["location"]
        job = f"/admin/v1/jobs/{place.rpartition('_')[2]}"
        poll(lambda: cached.get(job).json()["result"], "an answer")
        return str(cached.get(job).json()["result"]["edge"]["route"])

    assert (kept("a"), kept("b")) == ("cache", "local")


def test_prefixes_are_not_shared_across_keys(cached: DaemonProcess) -> None:
    """What one caller had computed does not show in another's usage."""
    body = {**GREEDY, "prompt": "word " * 100, "edge": {"cache": False}}

    def known(key: str) -> int:
        answer = cached.post("/v1/completions", body, Authorization=f"Bearer {key}").json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert known("a") == 0
    assert known("b") == 0
    assert known("a") > 90


def test_marked_prefixes_are_shared_across_keys(cached: DaemonProcess) -> None:
    """Among those that are marked; the answers are not."""
    prompt = "shared " * 100

    def known(key: str, shared: bool) -> tuple[str, int]:
        edge = {"shared_prefix": shared}
        body = {**GREEDY, "prompt": prompt, "edge": edge}
        answer = cached.post("/v1/completions", body, Authorization=f"Bearer {key}")
        count = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return answer.headers["x-edge-route"], int(count)

    assert known("a", True) == ("local", 0)
    assert known("b", False) == ("local", 0)
    route, count = known("c", True)
    assert (route, count > 90) == ("local", True)
