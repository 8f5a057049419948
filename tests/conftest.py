"""What tests of every part share: the real default model, fetched once for each machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import quick_model
from daemon_process import SLOWER, DaemonProcess, Start
from hypothesis import HealthCheck, settings
from small_disk import SmallDisk

from edge.config.tree import Config
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.quantize import quantize
from edge.modelstore.store import ModelStore
from edge.runtime.runner import BARRIER_SPINS, SPIN_VARIABLE

settings.register_profile(
    "everywhere", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("everywhere")
"""A busy machine is slow and no failure, and two runs of one state of the code try the same."""


def pytest_configure() -> None:
    """Before llama.cpp is there: what makes its threads good neighbours in a worker does so in this
    process too, which loads models beside the daemons of other tests.

    A shell ignores Ctrl-C for what it runs in the background; the commands that are tested here
    must not inherit that.
    """
    os.environ.setdefault(SPIN_VARIABLE, BARRIER_SPINS)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


SLOWEST_FIRST = (
    *("mqtt", "failover", "daemon", "engine", "tuning"),
    *("http", "cli", "cloud", "policy", "store"),
)
"""Folders whose files take longest: begun last, one of them would keep a process busy alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order within a folder stays."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else len(SLOWEST_FIRST)

    items.sort(key=place)
    for item in items:
        if own := item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(own.args[0] * SLOWER), append=False)


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The GGUF file of the default model; `EDGE_TEST_MODEL_DIR` says where it is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = os.environ.get("EDGE_TEST_MODEL_DIR") or f"{cache}/edge-appliance/test-models"
    store, name = ModelStore(Path(folder)), Config().models.default
    present = store.find(name)
    return present.path if present else pull(store, load_catalog()[name]).path


@pytest.fixture(scope="session")
def coarse_model_path(default_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with coarser weights: it mostly says the same, and not always."""
    folder = tmp_path_factory.mktemp("coarse")
    (folder / "m.gguf").symlink_to(default_model_path)
    store = ModelStore(folder)
    return quantize(store, store.get("m"), "Q4_0").path


@pytest.fixture(scope="session")
def quick_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is loaded and answers at once, for tests that are not about what it says."""
    return quick_model.write(tmp_path_factory.mktemp("quick") / "quick.gguf")


@pytest.fixture
def start(tmp_path: Path, default_model_path: Path) -> Iterator[Start]:
    """Starts daemons with settings of their own, each going on where the one before was killed.

    `folder`: where it keeps its state instead. `model_file`: what it serves as its default model.
    What they logged is shown when the test has failed.
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
def start_quick(start: Start, quick_model_path: Path) -> Start:
    """The same with a model that is there at once: for tests that are not about what it says, and
    that have not to be there in the middle of an answer."""
    return partial(start, model_file=quick_model_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    yield small
    small.close()
