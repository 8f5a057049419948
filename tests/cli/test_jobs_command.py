"""`edge jobs` against a daemon that plays its pages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from fake_daemon import FakeDaemon

Run = Callable[..., Result]
ID = "0006421f0d2a1cdeadbeefdeadbeef00"


def job(**wanted: Any) -> dict[str, Any]:
    facts = {
        "id": ID,
        "line": "auto assistant",
        "client": "edge/press-07/reply/plc",
        "door": "mqtt",
        "kind": "chat",
        "priority": "normal",
        "state": "queued",
        "deadline": None,
        "created": time.time() - 125,
        "started": None,
        "finished": None,
        "attempts": 2,
        "error_code": None,
    }
    return facts | wanted


def play(daemon: FakeDaemon, page: str, facts: Any, status: int = 200) -> None:
    daemon.pages[page] = (status, "application/json", json.dumps(facts).encode())


def test_list_is_a_table(run: Run, daemon: FakeDaemon) -> None:
    """One line for each job, with nothing of a caller's that could steer the terminal."""
    play(daemon, "/admin/v1/jobs?limit=100", {"jobs": [job(), job(state="done", client="\x1b[2J")]})
    result = run("jobs", "list", "--url", daemon.url)
    assert result.exit_code == 0
    heading, first, second = (" ".join(line.split()) for line in result.output.splitlines())
    assert heading == "ID STATE LINE KIND DOOR CLIENT PRIORITY AGE ATTEMPTS"
    assert (
        first == f"{ID} queued auto assistant chat mqtt edge/press-07/reply/plc normal 2 min 5 s 2"
    )
    assert second.startswith(f"{ID} done auto assistant chat mqtt [2J normal")


def test_list_asks_for_what_is_wanted(run: Run, daemon: FakeDaemon) -> None:
    """State and number go to the daemon; programs get what it sent."""
    facts = {"jobs": [job(state="failed", later="kept")]}
    play(daemon, "/admin/v1/jobs?limit=3&state=failed", facts)
    result = run("jobs", "list", "--state", "failed", "--limit", "3", "--json", "--url", daemon.url)
    assert result.exit_code == 0
    assert json.loads(result.output) == facts


@pytest.mark.parametrize("flags", [("--state", "odd"), ("--limit", "0"), ("--limit", "1001")])
def test_list_of_nonsense(flags: tuple[str, ...], run: Run) -> None:
    """Refused before the daemon is asked."""
    assert run("jobs", "list", *flags).exit_code == 2


def test_show_has_request_and_result(run: Run, daemon: FakeDaemon) -> None:
    """Times for people, bodies as JSON, a dash for what is not there."""
    facts = job(state="done", request={"prompt": "Hi"}, result={"id": "x"}, finished=time.time())
    play(daemon, f"/admin/v1/jobs/{ID}", facts)
    shown = run("jobs", "show", ID, "--url", daemon.url).output
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert lines["request"] == '{"prompt":"Hi"}'
    assert lines["deadline"] == "-"
    assert lines["finished"].startswith("20")
    assert json.loads(run("jobs", "show", ID, "--json", "--url", daemon.url).output) == facts


@pytest.mark.parametrize(
    ("verb", "words", "refused"),
    [("cancel", "cancelled", "had ended before"), ("retry", "queued again", "has not failed")],
)
def test_changes(verb: str, words: str, refused: str, run: Run, daemon: FakeDaemon) -> None:
    """What took place is said; what could not is an error with the state that the job is in."""
    page = f"POST /admin/v1/jobs/{ID}/{verb}"
    play(daemon, page, job(changed=True))
    result = run("jobs", verb, ID, "--url", daemon.url)
    assert (result.exit_code, result.output) == (0, f"job {ID} is {words}\n")
    assert json.loads(run("jobs", verb, ID, "--json", "--url", daemon.url).output)["changed"]
    play(daemon, page, job(changed=False, state="done"))
    result = run("jobs", verb, ID, "--url", daemon.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (f"Error: job {ID} {refused}: it is done\nTry: edge jobs show {ID}\n")


@pytest.mark.parametrize("verb", ["show", "cancel", "retry"])
def test_unknown_job(verb: str, run: Run, daemon: FakeDaemon) -> None:
    """The daemon's words and the way to the ids; an odd id stays one part of the path."""
    error = {"error": {"message": "there is no job `a/b`", "code": "job_not_found"}}
    play(daemon, "/admin/v1/jobs/a%2Fb", error, 404)
    play(daemon, f"POST /admin/v1/jobs/a%2Fb/{verb}", error, 404)
    result = run("jobs", verb, "a/b", "--url", daemon.url)
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no job `a/b`\nTry: edge jobs list\n"


@pytest.mark.parametrize("command", [("list",), ("show", ID), ("cancel", ID), ("retry", ID)])
def test_nobody_at_the_address(command: tuple[str, ...], run: Run, free_port: int) -> None:
    """The same words as everywhere."""
    result = run("jobs", *command, "--url", f"http://127.0.0.1:{free_port}")
    assert result.exit_code == 1
    assert "Try: edge serve" in result.stderr


def test_foreign_list(run: Run, daemon: FakeDaemon) -> None:
    """Facts of another shape are no jobs."""
    play(daemon, "/admin/v1/jobs?limit=100", {"jobs": [{"id": 3}]})
    result = run("jobs", "list", "--url", daemon.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {daemon.url} answered with")
