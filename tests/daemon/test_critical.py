"""An alarm does not wait behind reports, whatever door it comes in by."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from daemon_process import DaemonProcess, Start, poll

LONG = {"temperature": 0, "max_tokens": 150, "ignore_eos": True}
ALARM = {"prompt": "Alarm:", "temperature": 0, "max_tokens": 5, "edge": {"priority": "critical"}}


def report(number: int) -> dict[str, Any]:
    prompt = f"Report number {number} of the day shift says that"
    return {**LONG, "prompt": prompt, "edge": {"priority": "batch"}}


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def alone(daemon: DaemonProcess) -> list[str]:
    return [text(daemon.post("/v1/completions", report(number))) for number in range(2)]


def test_live_alarm_has_the_slot_of_a_report(start: Start) -> None:
    """It is answered while both reports are still being written; theirs is the text that it would
    have been."""
    daemon = start(engine__slots=2).wait_ready()
    wanted = alone(daemon)
    with ThreadPoolExecutor(2) as pool:
        reports = [pool.submit(daemon.post, "/v1/completions", report(n)) for n in range(2)]
        daemon.wait_running(2)
        assert text(daemon.post("/v1/completions", ALARM))
        assert not any(one.done() for one in reports)
        assert [text(one.result()) for one in reports] == wanted


def test_kept_alarm_does_not_wait_for_kept_reports(start: Start) -> None:
    """Though they have all the places that kept requests get."""
    daemon = start(engine__slots=2).wait_ready()

    def kept(body: dict[str, Any]) -> str:
        accepted = daemon.post("/v1/completions", body, Prefer="respond-async")
        return accepted.headers["location"]

    reports = [kept(report(number)) for number in range(4)]
    daemon.wait_running(1)
    alarm = kept(ALARM)
    poll(lambda: daemon.get(alarm).json()["output"], "the alarm's answer")
    ended = [
        daemon.get(place).json()["status"] not in ("queued", "in_progress") for place in reports
    ]
    assert sum(ended) <= 1
