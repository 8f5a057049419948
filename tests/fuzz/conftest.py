"""One daemon behind a broker for all fuzzers of its doors, with a model of each kind.

Brokers and factories are those of the tests over MQTT.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx_models
import pytest
from daemon_process import DaemonProcess, running

sys.path.append(str(Path(__file__).parents[1] / "mqtt"))

from factory import behind
from mosquitto import Mosquitto


@pytest.fixture(scope="session")
def fuzz_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("fuzz-broker"))
    yield broker
    broker.end()


@pytest.fixture(scope="session")
def fuzzed(
    tmp_path_factory: pytest.TempPathFactory, quick_model_path: Path, fuzz_broker: Mosquitto
) -> Iterator[DaemonProcess]:
    """With little of everything: what is asked for at random may be a lot."""
    folder = tmp_path_factory.mktemp("fuzzed")
    onnx_models.install(folder / "state" / "models", "adder", onnx_models.adder())
    settings = behind(
        fuzz_broker,
        engine__context=256,
        limits__default_max_tokens=2,
        limits__max_body_mb=1,
        queue__max_jobs=2000,
        queue__max_file_mb=1,
    )
    with running(folder, quick_model_path, **settings) as daemon:
        yield daemon


@pytest.fixture
def daemon(fuzzed: DaemonProcess) -> Iterator[DaemonProcess]:
    """It has to be the same process afterwards, with the same worker, and no bug in its log."""
    fuzzed.new_log()
    before = (fuzzed.pid, fuzzed.worker_pid)
    yield fuzzed
    log = fuzzed.new_log()
    assert "Traceback" not in log, log[-5000:]
    assert "ERROR" not in log, log[-5000:]
    assert fuzzed.post("/v1/completions", {"prompt": "x"}).status_code == 200
    assert (fuzzed.pid, fuzzed.worker_pid) == before
    assert fuzzed.status()["restarts"] == 0
