"""What was acknowledged survives the daemon's death, and a disk that fills up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from daemon_process import DaemonProcess, Start, poll
from small_disk import SmallDisk
from system_calls import assert_synced_before, traced

TEXTS = ["The sea is", "Rain comes from", "A prime number is", "To cook rice, you"]


def body_of(number: int, **fields: Any) -> dict[str, Any]:
    prompt = f"{number}. {TEXTS[number % len(TEXTS)]}"
    return {"prompt": prompt, "temperature": 0, "max_tokens": 8, **fields}


def keep(daemon: DaemonProcess, body: dict[str, Any], **headers: str) -> str:
    accepted = daemon.post("/v1/completions", body, Prefer="respond-async", **headers)
    assert accepted.status_code == 202
    return str(accepted.json()["id"])


def ended(daemon: DaemonProcess, name: str) -> dict[str, Any] | None:
    response: dict[str, Any] = daemon.get(f"/v1/responses/{name}").json()
    return None if response["status"] in ("queued", "in_progress") else response


def text_of(response: dict[str, Any]) -> str:
    return str(response["output"][0]["content"][0]["text"])


def test_kept_requests_live_through_deaths_of_the_daemon(start_quick: Start) -> None:
    """kill -9 with jobs queued, running and done: each has one answer in the end, the right one."""
    daemon = start_quick().wait_ready()
    names = {}

    def long_body(number: int) -> dict[str, Any]:
        return body_of(number, max_tokens=100)

    for life in range(3):
        for number in range(life * 4, life * 4 + 4):
            names[number] = keep(daemon, long_body(number))
        if life < 2:
            first = names[life * 4]
            poll(lambda dying=daemon, first=first: ended(dying, first), "one is done")
            daemon.end()
            daemon = start_quick().wait_ready()
    assert len(set(names.values())) == len(names)
    for number, name in names.items():
        response = poll(lambda name=name: ended(daemon, name), "an end")
        assert response is not None
        assert response["status"] == "incomplete"
        live = daemon.post("/v1/completions", long_body(number)).json()
        assert text_of(response) == live["choices"][0]["text"]
    counts = daemon.metrics()
    poll(lambda: daemon.metrics()['edge_jobs{state="done"}'] == len(names), "the books")
    assert counts['edge_jobs{state="failed"}'] == 0
    assert daemon.stop() == 0


def test_a_stopped_daemon_goes_on_where_it_was(start: Start) -> None:
    """SIGTERM in the middle of a job: it is queued again, and answered after the next start."""
    daemon = start().wait_ready()
    body = body_of(0, max_tokens=200, ignore_eos=True)
    name = keep(daemon, body)
    daemon.wait_running(1)
    assert daemon.stop() == 0
    daemon = start().wait_ready()
    response = poll(lambda: ended(daemon, name), "an end")
    assert response is not None
    assert response["usage"]["output_tokens"] == 200
    assert daemon.get(f"/admin/v1/jobs/{name.removeprefix('resp_')}").json()["attempts"] == 1
    assert daemon.stop() == 0


def test_an_idempotency_key_outlives_the_daemon(start_quick: Start) -> None:
    """The answer of before the death is the answer after it."""
    body = body_of(1, temperature=1)
    daemon = start_quick().wait_ready()
    before = daemon.post("/v1/completions", body, Idempotency_Key="one").content
    daemon.end()
    daemon = start_quick().wait_ready()
    assert daemon.post("/v1/completions", body, Idempotency_Key="one").content == before
    assert daemon.stop() == 0


def test_a_job_that_kills_its_worker_twice(start: Start) -> None:
    """It has failed, is not tried again by itself, and the next one is served."""
    daemon = start().wait_ready()
    name = keep(daemon, body_of(0, max_tokens=400, ignore_eos=True))
    for _ in range(2):
        daemon.wait_running(1)
        os.kill(daemon.worker_pid, 9)
        poll(lambda: daemon.get("/health/ready").status_code == 503, "the death")
    response = poll(lambda: ended(daemon, name), "an end")
    assert response is not None
    assert response["error"]["code"] == "worker_crashed"
    other = keep(daemon, body_of(1))
    assert poll(lambda: ended(daemon, other), "an end")["status"] == "incomplete"  # type: ignore[index]
    assert daemon.stop() == 0


def test_synced_before_it_is_acknowledged(start_quick: Start, tmp_path: Path) -> None:
    """strace of the daemon: the log is written, synced, and only then a 202 goes out."""
    daemon = start_quick().wait_ready()
    with traced(daemon.pid, tmp_path / "trace") as lines:
        keep(daemon, body_of(0))
    assert_synced_before(lines, "HTTP/1.1 202")
    daemon.wait_idle()


def test_a_full_disk(disk: SmallDisk, start: Start) -> None:
    """Intake stops with a clear error, live requests are served, and it recovers by itself."""
    daemon = start(folder=disk.folder / "edge").wait_ready()
    running = keep(daemon, body_of(0, max_tokens=100, ignore_eos=True))
    daemon.wait_running(1)
    disk.fill(daemon)

    def refused() -> Any:
        answer = daemon.post("/v1/completions", body_of(1), Prefer="respond-async")
        return answer if answer.status_code != 202 else None

    refusal = poll(refused, "a refusal")
    assert refusal.status_code == (507 if disk.mounted else 503)
    assert refusal.json()["error"]["code"] == ("queue_full" if disk.mounted else "store_broken")
    assert int(refusal.headers["retry-after"]) >= 1
    live = daemon.post("/v1/completions", body_of(2))
    assert live.status_code == 200
    disk.free(daemon)
    assert poll(lambda: ended(daemon, running), "the outcome")["status"] == "incomplete"  # type: ignore[index]
    name = poll(lambda: keep_if_taken(daemon), "room again")
    assert poll(lambda: ended(daemon, str(name)), "an end")
    assert daemon.stop() == 0


def keep_if_taken(daemon: DaemonProcess) -> str | None:
    answer = daemon.post("/v1/completions", body_of(3), Prefer="respond-async")
    return str(answer.json()["id"]) if answer.status_code == 202 else None
