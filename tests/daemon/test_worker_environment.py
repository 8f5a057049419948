"""What a worker's environment has that the daemon's has not."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_process import Start

from edge.runtime.runner import BARRIER_SPINS, SPIN_VARIABLE


@pytest.mark.parametrize("own", [None, "5000"])
def test_waiting_threads_give_their_core_away(
    own: str | None, start_quick: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless whoever starts the daemon says otherwise."""
    if own is None:
        monkeypatch.delenv(SPIN_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(SPIN_VARIABLE, own)
    daemon = start_quick().wait_ready()
    variables = Path(f"/proc/{daemon.worker_pid}/environ").read_bytes().split(b"\0")
    assert f"{SPIN_VARIABLE}={own or BARRIER_SPINS}".encode() in variables
    assert b"GGML_NO_BACKTRACE=1" in variables
    assert daemon.stop() == 0
