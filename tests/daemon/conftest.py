"""Daemons that a test may kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from daemon_process import DaemonProcess, Start


@pytest.fixture
def daemon(start: Start) -> Iterator[DaemonProcess]:
    """A new one for each test, because a worker that dies often is restarted ever later."""
    daemon = start(engine__slots=8).wait_ready()
    yield daemon
    daemon.wait_ready().wait_idle()
    assert daemon.stop() == 0
