"""A ledger on a fresh file for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger import Ledger, open_ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(path) as opened:
        yield opened
