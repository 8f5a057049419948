"""Two clouds, and an appliance with routes over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, running
from fake_cloud import FakeCloud
from scenarios import yaml


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
    default_model_path: Path,
    primary: FakeCloud,
    backup: FakeCloud,
) -> Iterator[DaemonProcess]:
    """Its breakers never open: every scenario finds them closed."""
    folder = tmp_path_factory.mktemp("failover")
    with running(folder, default_model_path, yaml=yaml(primary, backup)) as daemon:
        yield daemon
