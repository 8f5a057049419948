"""An outage: requests are kept while the upstream is away, and answered when it is back."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from daemon_process import DaemonProcess, Start, poll
from fake_cloud import FakeCloud, text_of

JOBS = 1000
SECONDS_TO_FIRST = 5.0


def yaml(cloud: FakeCloud, **upstream: Any) -> str:
    """A route that has nobody but the cloud, with the usual breaker."""
    settings = {
        "base_url": cloud.url,
        "timeouts": {"connect": 0.5, "first_token": 2, "stall": 2, "total": 10},
        **upstream,
    }
    return json.dumps({"routes": {"far": ["cloud:cloud"]}, "upstreams": {"cloud": settings}})


def keep(daemon: DaemonProcess, number: int) -> str:
    """Where to ask for the answer to a request that only it makes."""
    body = {"model": "far", "messages": [{"role": "user", "content": f"request {number}"}]}
    accepted = daemon.post("/v1/chat/completions", body, Prefer="respond-async")
    assert accepted.status_code == 202, accepted.text
    return accepted.headers["location"]


def obstacle(daemon: DaemonProcess, place: str) -> str | None:
    """What a job waits for, as an operator sees it."""
    shown = daemon.get(f"/admin/v1/jobs/{place.rpartition('_')[2]}").json()
    assert shown["line"] == "auto far"
    reason: str | None = shown.get("obstacle")
    return reason


def jobs(daemon: DaemonProcess) -> dict[str, float]:
    """How many there are, by state."""
    metrics = daemon.metrics()
    names = ("queued", "running", "done", "failed")
    return {name: metrics.get(f'edge_jobs{{state="{name}"}}', 0.0) for name in names}


@pytest.mark.timeout(300)
def test_everything_kept_in_an_outage_is_answered_once(start: Start) -> None:
    """A thousand requests, the daemon killed twice meanwhile and once while the queue drains:
    each is answered, with one idempotency key, and the first ones within seconds."""
    with FakeCloud() as cloud:
        cloud.stop()
        daemon = start(yaml=yaml(cloud)).wait_ready()
        with ThreadPoolExecutor(8) as pool:
            places = [*pool.map(lambda number: keep(daemon, number), range(JOBS // 2))]
        daemon.process.kill()
        daemon = start(yaml=yaml(cloud)).wait_ready()
        with ThreadPoolExecutor(8) as pool:
            places += pool.map(lambda number: keep(daemon, number), range(JOBS // 2, JOBS))
        daemon.process.kill()
        daemon = start(yaml=yaml(cloud)).wait_ready()
        assert jobs(daemon)["done"] == 0
        cloud.start()
        back = time.monotonic()
        poll(lambda: jobs(daemon)["done"] > 0, "a first answer", SECONDS_TO_FIRST)
        print(f"first answers {time.monotonic() - back:.1f} s after the link was back")  # noqa: T201
        poll(lambda: jobs(daemon)["done"] > JOBS // 4, "some answers")
        daemon.process.kill()
        daemon = start(yaml=yaml(cloud)).wait_ready()
        poll(lambda: jobs(daemon)["done"] == JOBS, "all answers", 120)
        assert jobs(daemon)["failed"] == 0
        check_answers(daemon, places)
        check_calls(cloud)


def check_answers(daemon: DaemonProcess, places: list[str]) -> None:
    for place in places:
        response = daemon.get(place).json()
        assert response["status"] == "completed"
        assert response["output"][0]["content"][0]["text"] == text_of(20)


def check_calls(cloud: FakeCloud) -> None:
    """Whatever was sent twice had the same key both times, and was computed once."""
    keys: dict[str, set[str]] = {}
    for call in cloud.calls():
        prompt = call["body"]["messages"][0]["content"]
        keys.setdefault(prompt, set()).add(call["headers"]["idempotency-key"])
    assert len(keys) == JOBS
    assert Counter(len(used) for used in keys.values()) == {1: JOBS}
    assert cloud.state()["computed"] == JOBS


def test_drain_keeps_the_upstream_busy_within_its_bounds(start: Start) -> None:
    """As many calls at once as it takes, and no more."""
    with FakeCloud() as cloud:
        cloud.fault("slow", delay=0.02)
        daemon = start(yaml=yaml(cloud, max_concurrent=3)).wait_ready()
        for number in range(30):
            keep(daemon, number)
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, sum(not call["ended"] for call in cloud.calls()))
            return jobs(daemon)["done"] == 30

        poll(done, "all answers")
        assert most == 3


def test_others_are_answered_meanwhile(start: Start) -> None:
    """What waits for the cloud keeps nobody waiting whom the model here can answer."""
    with FakeCloud() as cloud:
        cloud.stop()
        daemon = start(yaml=yaml(cloud)).wait_ready()
        waits = [keep(daemon, number) for number in range(10)]
        body = {"prompt": "The sea is", "max_tokens": 5}
        accepted = daemon.post("/v1/completions", body, Prefer="respond-async")
        place = accepted.headers["location"]
        poll(lambda: daemon.get(place).json()["output"], "an answer", 10)
        assert {daemon.get(place).json()["status"] for place in waits} <= {"queued", "in_progress"}
        poll(lambda: "cloud" in (obstacle(daemon, waits[-1]) or ""), "the reason why it waits")
        waiting = 'edge_jobs_waiting{line="auto far"}'
        poll(lambda: daemon.metrics().get(waiting, 0) > 0, "the books of its line")


def test_poison_is_set_apart(start: Start) -> None:
    """A request that the upstream fails at each time has failed, with its error; the others have
    their answers."""
    with FakeCloud() as cloud:
        settings = yaml(cloud, retries=0, breaker={"consecutive": 100, "min_requests": 1000})
        daemon = start(yaml=settings, sync__max_attempts=2).wait_ready()
        cloud.fault("status", status=500, message="out of memory", times=2)
        poison = keep(daemon, 0)
        poll(lambda: len(cloud.calls()) == 2, "two tries")
        others = [keep(daemon, number) for number in range(1, 4)]
        poll(lambda: daemon.get(poison).json()["status"] == "failed", "its end", 30)
        error = daemon.get(poison).json()["error"]
        assert error["code"] == "upstream_error"
        assert "out of memory" in error["message"]
        for place in others:
            poll(lambda place=place: daemon.get(place).json()["status"] == "completed", "an answer")
