"""Headquarters hears of what was answered, and of no more than it may."""

from __future__ import annotations

from typing import Any

from daemon_process import MODEL, Start, poll
from headquarters import Headquarters, headquarters

BODY = {"prompt": "The sea is", "max_tokens": 4}


def records(office: Headquarters, count: int) -> list[dict[str, Any]]:
    poll(lambda: len(office.ids) >= count, f"{count} records")
    assert len(office.ids) == len(set(office.ids)) == count
    return [line for post in office.taken for line in post.lines]


def test_what_was_answered_is_reported(start: Start) -> None:
    """Live and kept requests and refusals, with counts; content only where it is allowed."""
    with headquarters() as office:
        settings = {"report_url": office.url, "report": "full", "interval_seconds": 0.2}
        daemon = start(
            device__id="press-07", **{f"sync__{name}": value for name, value in settings.items()}
        ).wait_ready()
        assert daemon.post("/v1/completions", BODY).status_code == 200
        secret = {**BODY, "prompt": "My secret is", "edge": {"route": "local"}}
        assert daemon.post("/v1/completions", secret).status_code == 200
        assert daemon.post("/v1/completions", BODY, Prefer="respond-async").status_code == 202
        assert daemon.post("/v1/completions", {**BODY, "model": "other"}).status_code == 404
        told = records(office, 4)
        assert {line["device"] for line in told} == {"press-07"}
        done = [line for line in told if line["status"] == "ok"]
        assert len(done) == 3
        assert {line["model"] for line in done} == {MODEL}
        assert all(line["completion_tokens"] == 4 for line in done)
        contents = [line["content"]["prompts"][0]["text"] for line in told if "content" in line]
        assert contents.count("The sea is") == 3
        assert "My secret is" not in "".join(str(post.lines) for post in office.posts)


def test_records_outlive_an_outage_and_a_kill(start: Start) -> None:
    """What was made while nobody took reports says so, and comes once somebody does."""
    with headquarters() as office:
        office.judge = lambda post: (503, {"Retry-After": "1"})
        settings: dict[str, Any] = {"sync__report_url": office.url, "sync__interval_seconds": 0.2}
        daemon = start(**settings).wait_ready()
        daemon.post("/v1/completions", BODY)
        poll(lambda: len(office.posts) > 0, "a refused report")
        daemon.post("/v1/completions", BODY)
        poll(lambda: daemon.metrics()["edge_reports_pending"] == 2, "two records")
        daemon.process.kill()
        office.judge = lambda post: (204, {})
        start(**settings).wait_ready()
        told = records(office, 2)
        assert [line["is_historical"] for line in told] == [False, True]
        assert all("content" not in line for line in told)
