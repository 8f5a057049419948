"""ONNX models in the daemon, beside a language model: one budget, two fates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon_process import DaemonProcess, Start
from onnx_models import adder, install, weighty


def onnx(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/v1/status").json()["onnx"]
    return found


def test_folders_are_told_of(start: Start, tmp_path: Path) -> None:
    """The state of each, a fault by its name, and a name that two things have."""
    models = tmp_path / "daemon" / "state" / "models"
    install(models, "add", adder())
    install(models, "bad", adder(), config="max_batch_size: x")
    install(models, "smollm2-135m-instruct", adder())
    daemon = start().wait_ready()
    found = {model["name"]: model for model in onnx(daemon)["models"]}
    assert found["add"]["state"] == "unloaded"
    assert found["add"]["versions"] == [1]
    assert "bad/config.pbtxt: `max_batch_size`" in found["bad"]["error"]
    assert onnx(daemon)["worker"]["pid"] is None
    assert "smollm2-135m-instruct is a file and a folder" in daemon.log
    metrics = daemon.metrics()
    assert metrics['edge_model_state{model="add",state="unloaded"}'] == 1
    assert metrics['edge_worker_restarts_total{model="onnx"}'] == 0
    install(models, "late", weighty(100_000))
    assert "late" in {model["name"] for model in onnx(daemon)["models"]}
    assert daemon.stop() == 0
