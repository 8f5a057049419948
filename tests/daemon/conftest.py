"""Daemons that a test may kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, Start


@pytest.fixture
def start(tmp_path: Path, default_model_path: Path) -> Iterator[Start]:
    """Starts a daemon with its own settings; what it logged is shown when the test has failed.

    `folder`: where it keeps its state, for one that is to go on where another was killed.
    """
    started: list[DaemonProcess] = []

    def start(**settings: Any) -> DaemonProcess:
        folder = settings.pop("folder", tmp_path / str(len(started)))
        model = settings.pop("model_file", default_model_path)
        started.append(DaemonProcess(folder, model, **settings))
        return started[-1]

    yield start
    for daemon in started:
        print(daemon.new_log())  # noqa: T201
        daemon.end()


@pytest.fixture
def daemon(start: Start) -> Iterator[DaemonProcess]:
    """A new one for each test, because a worker that dies often is restarted ever later."""
    daemon = start(engine__slots=8).wait_ready()
    yield daemon
    daemon.wait_ready().wait_idle()
    assert daemon.stop() == 0
