"""Two clouds, and an appliance with routes over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, Start, running
from fake_cloud import FakeCloud
from scenarios import yaml


@pytest.fixture
def start(start_quick: Start) -> Start:
    """Who answers is what these tests are about, and hardly ever what the model here has to say."""
    return start_quick


@pytest.fixture(scope="module")
def primary() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def backup() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def appliance(
    tmp_path_factory: pytest.TempPathFactory,
    quick_model_path: Path,
    primary: FakeCloud,
    backup: FakeCloud,
) -> Iterator[DaemonProcess]:
    """Its breakers never open: every scenario finds them closed. A description of tools is long
    where each letter is a token."""
    folder = tmp_path_factory.mktemp("failover")
    settings = {"yaml": yaml(primary, backup), "engine__context": 2048}
    with running(folder, quick_model_path, **settings) as daemon:
        yield daemon
