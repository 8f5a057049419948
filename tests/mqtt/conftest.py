"""A real broker, a real daemon behind it, and programs of a factory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, running
from factory import STATUS, Factory, Join, behind
from mosquitto import Mosquitto


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.end()


@pytest.fixture(scope="session")
def shared_daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path, shared_broker: Mosquitto
) -> Iterator[DaemonProcess]:
    settings = behind(shared_broker, limits__max_body_mb=1, limits__default_max_tokens=8)
    with running(tmp_path_factory.mktemp("mqtt"), default_model_path, **settings) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: DaemonProcess, shared_broker: Mosquitto) -> Iterator[DaemonProcess]:
    """The shared daemon, connected, and left as idle as it was found."""
    shared_daemon.new_log()
    with_status = Factory(shared_broker.port, STATUS)
    with_status.one(STATUS)
    with_status.close()
    yield shared_daemon
    print(shared_daemon.new_log())  # noqa: T201 - pytest shows it when the test has failed
    shared_daemon.wait_idle()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """One that the test may stop."""
    broker = Mosquitto(tmp_path / "broker")
    yield broker
    broker.end()


@pytest.fixture
def join() -> Iterator[Join]:
    """Makes clients, and ends them."""
    joined: list[Factory] = []

    def join(broker: Mosquitto, *topics: str, **options: Any) -> Factory:
        joined.append(Factory(broker.port, *topics, **options))
        return joined[-1]

    yield join
    for client in joined:
        client.close()


@pytest.fixture
def client(daemon: DaemonProcess, shared_broker: Mosquitto, join: Join) -> Factory:
    """One that hears every reply of the shared daemon."""
    return join(shared_broker, "edge/+/reply/#", "line1/reply/#")
