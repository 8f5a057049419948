"""A long prompt that programs share is computed once, whatever becomes of slots and processes.

`./scripts/soak prefixes` has twelve of them, and the real model, which takes seconds for each.
"""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemon_process import DaemonProcess, Start, poll

SOAK = os.environ.get("SOAK_PREFIXES")
APPS = int(SOAK or 5)
"""More than there are slots."""

SIZE = 550


LAST = 300
"""Tokens that every model has, but for its control tokens, which are first."""


@pytest.fixture
def start(start: Start, start_quick: Start) -> Start:
    return start if SOAK else start_quick


def prompt(app: int) -> list[int]:
    """No two begin with the same token."""
    pick = random.Random(app)
    return [LAST + 20 + app, *(pick.randrange(100, LAST) for _ in range(SIZE - 1))]


def cached(daemon: DaemonProcess, app: int, call: int, **headers: str) -> int:
    """How many tokens of this call's prompt were there already."""
    body = {"prompt": [*prompt(app), LAST + call], "max_tokens": 1, "temperature": 0}
    answer = daemon.post("/v1/completions", body, **headers)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def files(daemon: DaemonProcess) -> list[str]:
    return [path.name for path in (daemon.folder / "state" / "prefixes").glob("*/*.kv")]


def test_prefixes_are_computed_once_and_outlive_kill_9(start: Start) -> None:
    """More programs than slots, called at once and at random; then the daemon is killed."""
    daemon = start(engine__context=1024).wait_ready()
    calls = [(app, call) for call in range(3) for app in range(APPS)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: cached(daemon, *one), calls))
    firsts = found[:APPS]
    assert sum(count >= SIZE for count in found) >= len(calls) - APPS
    assert firsts.count(0) == APPS
    stats = daemon.wait_idle()
    assert stats["kept_prefixes"] >= APPS - 4
    assert daemon.metrics()["edge_prefix_cache_hits_total"] >= SIZE * (len(calls) - APPS)
    poll(lambda: len(files(daemon)) == APPS, "files of all")
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()

    again = start(engine__context=1024).wait_ready()
    assert [cached(again, app, 9) for app in range(APPS)] == [SIZE] * APPS
    assert cached(again, 0, 9, Authorization="Bearer somebody-else") == 0


def test_other_settings_do_not_read_them(start: Start) -> None:
    """A state of another format is not tried."""
    daemon = start(engine__context=1024).wait_ready()
    for call in range(2):
        cached(daemon, 0, call)
    poll(lambda: files(daemon), "a file")
    daemon.end()
    again = start(engine__context=1024, engine__kv_type="q8_0").wait_ready()
    assert cached(again, 0, 5) == 0
