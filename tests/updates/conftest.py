"""A factory and a box for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from software import Box, Factory


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return Factory(tmp_path / "factory")


@pytest.fixture
def box(tmp_path: Path, factory: Factory) -> Box:
    return Box(tmp_path / "box", factory)
