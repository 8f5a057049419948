"""`edge doctor` as a whole: it always ends with a report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_cloud import FakeCloud
from fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def models_tiny(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, free_port: int) -> None:
    """Serve the model that is there, on a port that is free."""
    monkeypatch.setenv("EDGE_MODELS__DEFAULT", "tiny")
    monkeypatch.setenv("EDGE_HTTP__PORT", str(free_port))


def test_report_of_this_machine(run: Run) -> None:
    """Every check has its line, in an order from the machine up to the daemon."""
    lines = [re.split("  +", line) for line in run("doctor").output.splitlines()]
    names = [words[1] for words in lines if words[0] in ("ok", "warn", "fail")]
    machine = ["python", "board", "heat", "power", "compiler", "cpu", "llama.cpp", "amx"]
    report = ["config", "model", "weights", "onnx", "memory", "swap", "disk kind", "disk"]
    assert names == [*machine, *report, "audit", "port", "daemon"]


def test_programs_get_the_checks(
    run: Run, daemon: FakeDaemon, status: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the daemon found where the configuration says it is."""
    daemon.serve(status)
    checks = _checks(run("doctor", "--json"))
    assert checks["daemon"]["finding"] == "not running"
    monkeypatch.setenv("EDGE_HTTP__PORT", str(daemon.port))
    checks = _checks(run("doctor", "--json"))
    assert "/health answers" in checks["port"]["finding"]
    assert "is loaded" in checks["memory"]["finding"]
    assert "tiny ready on CPU" in checks["daemon"]["finding"]


def test_foreign_server_on_the_port_fails(
    run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the port and has no status."""
    monkeypatch.setenv("EDGE_HTTP__PORT", str(daemon.port))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["ok"] is False
    assert _checks(result)["port"]["status"] == "fail"
    assert _checks(result)["daemon"]["status"] == "fail"


def test_failing_check_shows_its_cure(run: Run, tiny_model: Path) -> None:
    """In the line below, and the exit code is 1."""
    tiny_model.write_bytes(b"<html>")
    result = run("doctor")
    assert result.exit_code == 1
    assert "Try: fetch or copy the model again" in result.output


def test_broken_library_and_configuration_do_not_stop_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp that dies on import, and a file that is refused, are findings among others."""
    (tmp_path / "llama_cpp.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run("doctor", "--json", "--config", "/nowhere.yaml")
    assert result.exit_code == 1
    checks = _checks(result)
    assert "SIGABRT" in checks["llama.cpp"]["finding"]
    assert checks["config"]["status"] == "fail"
    assert checks["python"]["status"] == "ok"


def test_way_to_a_cloud_model(run: Run, tmp_path: Path) -> None:
    """Its steps instead of the machine's; a name that is not configured is a wrong usage."""
    file = tmp_path / "edge.yaml"
    with FakeCloud() as cloud:
        file.write_text(f"upstreams: {{words: {{base_url: '{cloud.url}'}}}}\n")
        checks = _checks(run("doctor", "--json", "--config", str(file), "--upstream", "words"))
        assert list(checks) == ["name", "tcp", "clock", "key", "model", "answer"]
        assert {check["status"] for check in checks.values()} == {"ok"}
        cloud.stop()
        result = run("doctor", "--config", str(file), "--upstream", "words")
        assert result.exit_code == 1
        assert "Try: check the firewall" in result.output
    result = run("doctor", "--config", str(file), "--upstream", "verbs")
    assert result.exit_code == 2
    assert "there are: words" in result.output


def _checks(result: Result) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(result.output)["checks"]}
