"""Time goes faster for jobs."""

from __future__ import annotations

import pytest

from edge.jobs import dispatcher
from edge.loops import Backoff


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "TICK", 0.02)
    monkeypatch.setattr(dispatcher, "FIRST_REST", 0.01)
    monkeypatch.setattr(Backoff, "next", lambda self: 0.01)
