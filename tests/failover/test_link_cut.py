"""A link that is really cut: packets vanish, and nobody says so."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from daemon_process import MODEL, Start, poll
from fake_cloud import FakeCloud, text_of
from far_side import FarSide
from scenarios import LIMITS, SLACK, ask

SECONDS_TO_FIRST = 5.0


@pytest.fixture
def link() -> Iterator[FarSide]:
    with ExitStack() as stack:
        try:
            link = stack.enter_context(FarSide())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespace can be made here: {error}")
        yield link


@pytest.fixture
def cloud(link: FarSide) -> Iterator[FakeCloud]:
    with FakeCloud(far_side=link) as cloud:
        yield cloud


def yaml(cloud: FakeCloud) -> str:
    routes = {"far": ["cloud:cloud"], "safe": ["cloud:cloud", f"local:{MODEL}"]}
    upstream: dict[str, Any] = {"base_url": cloud.url, "timeouts": LIMITS, "retries": 0}
    return json.dumps({"routes": routes, "upstreams": {"cloud": upstream}})


def test_cut_in_the_middle_of_an_answer(start: Start, link: FarSide, cloud: FakeCloud) -> None:
    """The stall is noticed in time; the model here goes on where there is one, and where there is
    none the stream ends with an error."""
    daemon = start(yaml=yaml(cloud)).wait_ready()
    cloud.fault("slow", delay=0.1)
    for route in ("far", "safe"):
        cutter = threading.Timer(0.7, link.cut)
        cutter.start()
        outcome = ask(daemon, route, stream=True, max_tokens=20)
        cutter.join()
        link.connect()
        assert outcome.text.startswith("w0 w1")
        assert outcome.done == (outcome.error is None) == (route == "safe")
        assert outcome.seconds < 0.7 + LIMITS["stall"] + SLACK + 4.0 * (route == "safe")
        poll(lambda: ask(daemon, "far", stream=False).status == 200, "a link again", 20)


def test_narrow_link(start: Start, link: FarSide, cloud: FakeCloud) -> None:
    """Slow is not broken: answers trickle in whole, several at once, with limits that allow it."""
    link.narrow("256kbit")
    timeouts = {"connect": 5, "first_token": 10, "stall": 5, "total": 60}
    settings = json.loads(yaml(cloud))
    settings["upstreams"]["cloud"]["timeouts"] = timeouts
    daemon = start(yaml=json.dumps(settings)).wait_ready()
    with ThreadPoolExecutor(4) as pool:
        outcomes = [*pool.map(lambda _: ask(daemon, "far", stream=True, max_tokens=60), range(4))]
    assert [outcome.text for outcome in outcomes] == [text_of(60)] * 4
    assert all(outcome.done for outcome in outcomes)
    assert max(outcome.seconds for outcome in outcomes) > 1.0  # it was narrow


def test_queue_drains_when_the_link_is_back(start: Start, link: FarSide, cloud: FakeCloud) -> None:
    """What was taken in meanwhile is answered; the first answers come within seconds."""
    daemon = start(yaml=yaml(cloud)).wait_ready()
    link.cut()
    body = {"model": "far", "messages": [{"role": "user", "content": "count"}]}
    places = [
        daemon.post("/v1/chat/completions", body, Prefer="respond-async").headers["location"]
        for _ in range(50)
    ]
    live = ask(daemon, "far", stream=False)
    assert live.status in (502, 503, 504)
    poll(lambda: daemon.metrics()['edge_upstream_state{upstream="cloud"}'] == 2, "an open breaker")
    link.connect()
    back = time.monotonic()
    poll(lambda: any(daemon.get(p).json()["output"] for p in places[:8]), "a first answer")
    assert time.monotonic() - back < SECONDS_TO_FIRST
    for place in places:
        poll(lambda place=place: daemon.get(place).json()["output"], "an answer")
        text = daemon.get(place).json()["output"][0]["content"][0]["text"]
        assert text == text_of(20)
    keys = [call["headers"]["idempotency-key"] for call in cloud.calls() if call["pieces"]]
    assert len(set(keys)) == len(places)
