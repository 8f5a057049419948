"""A recorded AGX Orin whose temperatures a test raises: who waits when, who never does, and that
all of it is over when it is cool again. The machine's time goes sixty times as fast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, Start, poll
from recorded_trees import lay_out, set_temperature

SPEED = "60"
LEVELS = ["less_batch", "no_batch", "fewer_slots", "elsewhere", "critical_only"]


class Board:
    def __init__(self, root: Path) -> None:
        self.root = lay_out("agx-orin-jetpack6", root)
        self.environ = {"EDGE_HOST_ROOT": str(self.root), "EDGE_HOST_SPEED": SPEED}

    def warm(self, celsius: float) -> None:
        set_temperature(self.root, celsius)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "machine")


def heat(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/v1/status").json()["heat"]
    return found


def reach(daemon: DaemonProcess, level: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        found = heat(daemon)
        return found if found["level"] == level else None

    found = poll(reached, level)
    assert found is not None
    return found


def ask(daemon: DaemonProcess, priority: str, headers: Any = None, **edge: Any) -> httpx.Response:
    edge |= {"priority": priority}
    body = {"prompt": f"{priority}:", "max_tokens": 5, "edge": edge}
    return daemon.post("/v1/completions", body, **(headers or {}))


def keep(daemon: DaemonProcess, priority: str) -> str:
    accepted = ask(daemon, priority, {"Prefer": "respond-async"})
    assert accepted.status_code == 202, accepted.text
    return accepted.headers["location"]


def state(daemon: DaemonProcess, place: str) -> str:
    """`incomplete` is an answer as long as was asked for."""
    status = str(daemon.get(place).json()["status"])
    return "done" if status in ("completed", "incomplete") else status


def refusal(answer: httpx.Response) -> str:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    error = answer.json()["error"]
    assert error["code"] == "overloaded"
    return str(error["message"])


def test_heat_holds_back_the_least_urgent_first_and_lets_go(
    start_quick: Start, board: Board
) -> None:
    daemon = start_quick(environ=board.environ).wait_ready()
    found = poll(lambda: (now := heat(daemon))["near"] and now, "a temperature")
    assert (found["level"], found["reason"], found["changes"]) == ("normal", None, 0)
    assert found["near"]["throttles_at"] == 99.0

    board.warm(93.5)
    found = reach(daemon, "no_batch")
    why = refusal(ask(daemon, "batch"))
    assert why.startswith("the machine is at 93.5 °C and slows down at 99 °C: batch work waits (")
    report = keep(daemon, "batch")
    assert ask(daemon, "normal").status_code == 200
    assert ask(daemon, "critical").status_code == 200
    assert state(daemon, keep_until_done(daemon, "normal")) == "done"
    assert state(daemon, report) == "queued"

    board.warm(97.5)
    reach(daemon, "elsewhere")
    # What may wait is queued; what may not is answered, as there is no cloud to ask.
    waiting = ask(daemon, "normal", allow_queue=True)
    assert waiting.status_code == 202
    assert ask(daemon, "normal").status_code == 200
    assert ask(daemon, "critical", deadline_ms=60_000).status_code == 200

    board.warm(99.5)
    reach(daemon, "critical_only")
    assert "all but critical requests wait" in refusal(ask(daemon, "normal"))
    assert ask(daemon, "critical", deadline_ms=60_000).status_code == 200
    question = waiting.headers["location"]
    assert [state(daemon, place) for place in (report, question)] == ["queued", "queued"]

    board.warm(60)
    found = reach(daemon, "normal")
    # One rung at a time, up and down, and none twice.
    told = re.findall(r"edge\.heat\.governor: (\w+):", daemon.log)
    assert told == [*LEVELS, *reversed(LEVELS[:-1]), "normal"]
    assert found["changes"] == 10
    for place in (report, question):
        poll(lambda place=place: state(daemon, place) == "done", "what waited is answered")
    assert ask(daemon, "batch").status_code == 200
    refused = daemon.metrics()
    assert refused['edge_heat_refused_total{priority="batch",reason="heat"}'] == 1
    assert refused['edge_heat_refused_total{priority="normal",reason="heat"}'] == 2
    assert not any("critical" in name for name in refused if name.startswith("edge_heat_refused"))


def keep_until_done(daemon: DaemonProcess, priority: str) -> str:
    place = keep(daemon, priority)
    poll(lambda: state(daemon, place) == "done", f"the {priority} job")
    return place


def test_watts_above_the_budget_act_like_heat(start_quick: Start, board: Board) -> None:
    """The recording draws 14.3 W; nothing is wrong with its temperature."""
    daemon = start_quick(environ=board.environ, power__budget_watts=10).wait_ready()
    found = reach(daemon, "elsewhere")
    assert found["reason"] == "power"
    assert refusal(ask(daemon, "batch")).startswith("the machine draws ")
    assert ask(daemon, "normal").status_code == 200


def test_unreadable_temperatures_hold_nothing_back(start_quick: Start, board: Board) -> None:
    for zone in range(9):
        file = board.root / f"sys/class/thermal/thermal_zone{zone}/temp"
        file.unlink()
        file.write_text("")
    daemon = start_quick(environ=board.environ).wait_ready()
    poll(lambda: daemon.get("/admin/v1/status").json()["host"]["temperatures"], "the zones")
    found = heat(daemon)
    assert (found["level"], found["near"]) == ("normal", None)
    assert ask(daemon, "batch").status_code == 200
