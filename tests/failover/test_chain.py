"""Another appliance as the upstream: a chain, as a factory has it with a site server."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import MODEL, DaemonProcess, Start, poll
from scenarios import ask

CHAT = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "temperature": 0}


def yaml(site: DaemonProcess, **upstream: Any) -> str:
    settings = {"base_url": f"{site.url}/v1", "model": MODEL, **upstream}
    routes = {"far": ["cloud:site"], "safe": ["cloud:site", f"local:{MODEL}"]}
    return json.dumps({"routes": routes, "upstreams": {"site": settings}})


@pytest.fixture
def site(start: Start, tmp_path: Path) -> DaemonProcess:
    return start(folder=tmp_path / "site").wait_ready()


@pytest.fixture
def wordy_site(start: Start, tmp_path: Path, default_model_path: Path) -> DaemonProcess:
    """One that takes its time, and has words to say."""
    return start(folder=tmp_path / "site", model_file=default_model_path).wait_ready()


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_same_answer_as_from_the_site_itself(start: Start, site: DaemonProcess) -> None:
    """Text, usage, log probabilities; the appliance says that it was not it who answered."""
    device = start(yaml=yaml(site)).wait_ready()
    body = {**CHAT, "max_tokens": 20, "logprobs": True, "top_logprobs": 2}
    far = device.post("/v1/chat/completions", {**body, "model": "far"})
    near = site.post("/v1/chat/completions", body)
    assert text_of(far) == text_of(near)
    assert far.headers["x-edge-route"] == "cloud"
    assert far.headers["x-edge-model"] == MODEL
    assert far.json()["model"] == "far"
    assert far.json()["usage"]["completion_tokens"] == 20
    listed = [answer.json()["choices"][0]["logprobs"]["content"] for answer in (far, near)]
    assert [e["token"] for e in listed[0]] == [e["token"] for e in listed[1]]
    assert ask(device, "far", stream=True, max_tokens=5).done


def test_kept_requests_reach_the_site_with_their_keys(start: Start, site: DaemonProcess) -> None:
    """The site keeps them too, so that a call that comes twice is computed once."""
    device = start(yaml=yaml(site)).wait_ready()
    body = {**CHAT, "model": "far", "max_tokens": 5}
    places = [
        device.post("/v1/chat/completions", body, Prefer="respond-async").headers["location"]
        for _ in range(4)
    ]
    for place in places:
        poll(lambda place=place: device.get(place).json()["output"], "an answer")
    poll(lambda: site.metrics()['edge_jobs{state="done"}'] == 4, "the site's books")


def test_model_here_goes_on_where_the_site_died(
    start: Start, wordy_site: DaemonProcess, default_model_path: Path
) -> None:
    """The whole machine is gone in the middle of an answer: the text goes on, and it ends well."""
    site = wordy_site
    device = start(yaml=yaml(site, timeouts={"stall": 2})).wait_ready()
    body = {**CHAT, "model": "safe", "max_tokens": 60, "ignore_eos": True, "stream": True}
    text, done = "", False
    url = device.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=90) as response:
        assert response.headers["x-edge-route"] == "cloud"
        for line in response.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                assert "error" not in event
                text += event["choices"][0]["delta"].get("content") or ""
                if site.process.poll() is None and len(text) > 20:
                    threading.Thread(target=site.process.kill).start()
                last = event
    assert done
    assert [attempt["target"] for attempt in last["edge"]["attempts"]] == [
        "cloud:site",
        f"local:{MODEL}",
    ]
    assert last["choices"][0]["finish_reason"] == "length"
    begun = (
        start(folder=site.folder, model_file=default_model_path)
        .wait_ready()
        .post("/v1/chat/completions", body | {"model": MODEL, "stream": False})
    )
    assert text[:20] == text_of(begun)[:20]


def test_prefix_of_an_answer_goes_on(wordy_site: DaemonProcess) -> None:
    """A last message of the assistant's is completed: what comes is what came before, minus it."""
    body = {**CHAT, "max_tokens": 30, "ignore_eos": True}
    whole = text_of(wordy_site.post("/v1/chat/completions", body))
    begun = whole[: whole.index(" ", len(whole) // 2)]
    turn = {"role": "assistant", "content": begun}
    rest = wordy_site.post(
        "/v1/chat/completions", {**body, "messages": [*CHAT["messages"], turn], "max_tokens": 8}
    )
    assert whole.startswith(begun + text_of(rest)[:5])
