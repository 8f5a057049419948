"""A dead upstream costs nothing once that is known, and is used again once it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, poll, running
from fake_cloud import FakeCloud
from scenarios import ALONE, CLOUD, LOCAL, ask, yaml

SECONDS_TO_FAIL_OVER = 0.05


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory,
    quick_model_path: Path,
    primary: FakeCloud,
    backup: FakeCloud,
) -> Iterator[DaemonProcess]:
    """With the usual breaker, but for how long it stays open."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = yaml(primary, backup, open_seconds=2)
    with running(folder, quick_model_path, yaml=settings) as daemon:
        yield daemon


def state(daemon: DaemonProcess, name: str = "primary") -> float:
    return daemon.metrics()[f'edge_upstream_state{{upstream="{name}"}}']


def test_dead_primary(guarded: DaemonProcess, primary: FakeCloud) -> None:
    """The hundredth request goes to the backup at once; when the primary is back, it has it."""
    primary.stop()
    for _ in range(99):
        assert ask(guarded, CLOUD, stream=False).status == 200
    hundredth = guarded.post(
        "/v1/chat/completions",
        {"model": CLOUD, "messages": [{"role": "user", "content": "count"}]},
    ).json()
    first, second = hundredth["edge"]["attempts"]
    assert (first["target"], first["outcome"]) == ("cloud:primary", "no_route")
    assert first["seconds"] < SECONDS_TO_FAIL_OVER
    assert (second["target"], second["outcome"]) == ("cloud:backup", "ok")
    assert state(guarded) == 2
    assert ask(guarded, LOCAL, stream=False, max_tokens=3).status == 200
    primary.start()
    poll(lambda: state(guarded) < 2, "a primary that may be asked")
    outcome = ask(guarded, CLOUD, stream=False)
    assert outcome.headers is not None
    assert outcome.headers["x-edge-model"] == "primary"
    assert state(guarded) == 0


def test_only_upstream(guarded: DaemonProcess, primary: FakeCloud) -> None:
    """It has a breaker too: after three failures callers are told at once when to come back."""
    primary.fault("status", status=500)
    answers = [ask(guarded, ALONE, stream=False) for _ in range(4)]
    assert [answer.status for answer in answers] == [502, 502, 502, 503]
    assert answers[3].error is not None
    assert answers[3].error["code"] == "no_route"
    assert answers[3].headers is not None
    assert int(answers[3].headers["retry-after"]) >= 1
    calls = len(primary.calls())
    assert ask(guarded, ALONE, stream=True).status == 503
    assert len(primary.calls()) == calls
    primary.clear()
    poll(lambda: ask(guarded, ALONE, stream=False).status == 200, "an answer again")


def test_status_tells(guarded: DaemonProcess, primary: FakeCloud) -> None:
    """Which upstream is not asked, and why."""
    primary.stop()
    for _ in range(3):
        ask(guarded, ALONE, stream=False)
    upstreams = guarded.get("/admin/v1/status").json()["upstreams"]
    first = next(one for one in upstreams if one["name"] == "primary")
    assert (first["state"], first["link"]) == ("open", "down")
    assert "primary" in first["reason"]
    primary.start()
    poll(lambda: state(guarded) < 2, "a primary that may be asked")
