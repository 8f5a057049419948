"""A batch lives through deaths of the daemon, a small queue, and an input that is taken away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, Start, poll

TOKENS = 100
"""Of an answer: with a quick model that is a tenth of a second."""

TEXTS = ["The sea is", "Rain comes from", "A prime number is", "To cook rice, you"]


def body_of(number: int, **fields: Any) -> dict[str, Any]:
    prompt = f"{number}. {TEXTS[number % len(TEXTS)]}"
    return {"prompt": prompt, "temperature": 0, "max_tokens": TOKENS, **fields}


@pytest.fixture
def start(start_quick: Start) -> Start:
    """Lines come and go, whatever is in them."""
    return start_quick


def upload(daemon: DaemonProcess, bodies: list[dict[str, Any]]) -> str:
    lines = [
        {"custom_id": f"line {n}", "method": "POST", "url": "/v1/completions", "body": body}
        for n, body in enumerate(bodies)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    kept = daemon.http.post(
        daemon.url + "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}
    )
    assert kept.status_code == 200
    return str(kept.json()["id"])


def create(daemon: DaemonProcess, file_id: str) -> str:
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    accepted = daemon.post("/v1/batches", body)
    assert accepted.status_code == 200
    return str(accepted.json()["id"])


def batch(daemon: DaemonProcess, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get(f"/v1/batches/{batch_id}").json()
    return found


def wait_answers(daemon: DaemonProcess, batch_id: str, number: int) -> None:
    """Until that many lines have been answered."""
    poll(
        lambda: batch(daemon, batch_id)["request_counts"]["completed"] >= number,
        f"{number} answers",
    )


def wait_ended(daemon: DaemonProcess, batch_id: str) -> dict[str, Any]:
    ends = ("completed", "failed", "expired", "cancelled")
    found = poll(lambda: (b := batch(daemon, batch_id))["status"] in ends and b, "an end")
    assert isinstance(found, dict)
    return found


def read(daemon: DaemonProcess, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    text = daemon.get(f"/v1/files/{file_id}/content").text
    return [json.loads(line) for line in text.splitlines()]


def test_a_batch_lives_through_deaths_of_the_daemon(start: Start, tmp_path: Path) -> None:
    """kill -9 at its beginning, in the middle and near its end: each line is answered once."""
    folder, number = tmp_path / "state", 18
    # A window of 5 lines, so that the daemon dies between many small steps.
    settings = {"folder": folder, "queue__max_jobs": 20}
    daemon = start(**settings).wait_ready()
    file_id = upload(daemon, [body_of(n) for n in range(number)])
    batch_id = create(daemon, file_id)
    daemon.end()
    for answers in (4, 10, 18):
        daemon = start(**settings).wait_ready()
        wait_answers(daemon, batch_id, answers)
        daemon.end()
    daemon = start(**settings).wait_ready()
    done = wait_ended(daemon, batch_id)
    assert (done["status"], done["error_file_id"]) == ("completed", None)
    assert done["request_counts"] == {"total": number, "completed": number, "failed": 0}
    answers_ = read(daemon, done["output_file_id"])
    assert [one["custom_id"] for one in answers_] == [f"line {n}" for n in range(number)]
    for n in (0, 11, 17):
        live = daemon.post("/v1/completions", body_of(n)).json()
        body = answers_[n]["response"]["body"]
        assert body["choices"][0]["text"] == live["choices"][0]["text"]
    jobs = daemon.get("/admin/v1/jobs?limit=1000").json()["jobs"]
    assert len(jobs) == number
    assert {job["client"] for job in jobs} == {batch_id}
    daemon.end()
    # What the kills have left beside the two files is gone with the next start.
    daemon = start(**settings).wait_ready()
    kept = {path.name for path in (folder / "state" / "files").iterdir()}
    assert kept == {file_id, done["output_file_id"]}
    assert daemon.stop() == 0


def test_cancelled_and_killed(start: Start, tmp_path: Path) -> None:
    """A batch that was to be cancelled when the daemon died ends so, with every line once."""
    folder = tmp_path / "state"
    daemon = start(folder=folder).wait_ready()
    quick, slow = body_of(0, max_tokens=4), body_of(1, max_tokens=400)
    batch_id = create(daemon, upload(daemon, [quick] * 3 + [slow] * 97))
    wait_answers(daemon, batch_id, 3)
    assert daemon.post(f"/v1/batches/{batch_id}/cancel", None).status_code == 200
    daemon.end()
    daemon = start(folder=folder).wait_ready()
    done = wait_ended(daemon, batch_id)
    assert done["status"] == "cancelled"
    lines = read(daemon, done["output_file_id"]) + read(daemon, done["error_file_id"])
    assert sorted(one["custom_id"] for one in lines) == sorted(f"line {n}" for n in range(100))
    assert daemon.get("/admin/v1/jobs?state=queued").json()["jobs"] == []
    daemon.wait_idle()
    assert daemon.stop() == 0


@pytest.mark.parametrize("when_full", ["reject", "drop_oldest_batch"])
def test_a_queue_that_is_small(start: Start, when_full: str) -> None:
    """Lines wait in their file; those that have to give way to newer work are queued again."""
    daemon = start(queue__max_jobs=4, queue__when_full=when_full).wait_ready()
    batches = [create(daemon, upload(daemon, [body_of(n) for n in range(6)])) for _ in range(2)]
    others = 0
    while batch(daemon, batches[-1])["status"] in ("validating", "in_progress"):
        kept = daemon.post("/v1/completions", body_of(others, max_tokens=1), Prefer="respond-async")
        assert kept.status_code in (202, 507)
        others += kept.status_code == 202
        wait_answers_or_end(daemon, batches)
    for batch_id in batches:
        done = wait_ended(daemon, batch_id)
        assert done["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
        assert len(read(daemon, done["output_file_id"])) == 6
    assert others > 0
    assert daemon.stop() == 0


def wait_answers_or_end(daemon: DaemonProcess, batches: list[str]) -> None:
    """Until one of them has got further: a flood of other work would keep them waiting."""

    def state() -> list[Any]:
        return [(b := batch(daemon, one))["status"] + str(b["request_counts"]) for one in batches]

    before = state()
    poll(lambda: state() != before or all("completed{" in one for one in before), "progress")


def test_an_input_that_is_taken_away(start: Start, tmp_path: Path) -> None:
    """The batch fails with what it has, and does not stop the others."""
    folder = tmp_path / "state"
    daemon = start(folder=folder, queue__max_jobs=4).wait_ready()
    file_id = upload(daemon, [body_of(n) for n in range(9)])
    batch_id = create(daemon, file_id)
    wait_answers(daemon, batch_id, 1)
    (folder / "state" / "files" / file_id).unlink()
    done = wait_ended(daemon, batch_id)
    assert done["status"] == "failed"
    assert done["errors"]["data"][0]["code"] == "file_not_found"
    assert read(daemon, done["output_file_id"])
    other = create(daemon, upload(daemon, [body_of(0)]))
    assert wait_ended(daemon, other)["status"] == "completed"
    assert daemon.stop() == 0
