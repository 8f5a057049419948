"""What tests of every part share: the real default model, fetched once for each machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, Start
from small_disk import SmallDisk

from edge.config import Config
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore


def pytest_configure() -> None:
    """A shell ignores Ctrl-C for what it runs in the background; the commands that are tested
    here must not inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


SLOWEST_FIRST = ("mqtt", "failover", "daemon", "http", "cloud", "store")
"""Folders whose files take longest: begun last, one of them would keep a process busy alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order within a folder stays."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else len(SLOWEST_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The GGUF file of the default model; `EDGE_TEST_MODEL_DIR` says where it is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = os.environ.get("EDGE_TEST_MODEL_DIR") or f"{cache}/edge-appliance/test-models"
    store, name = ModelStore(Path(folder)), Config().models.default
    present = store.find(name)
    return present.path if present else pull(store, load_catalog()[name])


@pytest.fixture
def start(tmp_path: Path, default_model_path: Path) -> Iterator[Start]:
    """Starts daemons with settings of their own, each going on where the one before was killed.

    `folder`: where it keeps its state instead. What they logged is shown when the test has failed.
    """
    started: list[DaemonProcess] = []

    def start(**settings: Any) -> DaemonProcess:
        folder = settings.pop("folder", tmp_path / "daemon")
        model = settings.pop("model_file", default_model_path)
        started.append(DaemonProcess(folder, model, **settings))
        return started[-1]

    yield start
    for daemon in started:
        print(daemon.new_log())  # noqa: T201
        daemon.end()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    yield small
    small.close()
