"""`edge tune`: measured with the real model, shown, and written only where somebody said so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bert
import pytest
import yaml
from click.testing import Result
from fake_daemon import FakeDaemon

from edge.cli import tune
from edge.tuning.candidate import Figures
from edge.tuning.survey import Findings
from edge.tuning.trial import Trial

Run = Callable[..., Result]
NAME = "smollm2-135m-instruct"
TEXT = """\
# ours
http: {port: 0}
engine:
  threads: 1  # one
  slots: 4
  context: 512
  batch: 64
"""


@pytest.fixture
def config(state: Path, default_model_path: Path, tmp_path: Path) -> Path:
    """A configuration, and the real model in the store."""
    models = state / "models"
    models.mkdir(parents=True)
    (models / f"{NAME}.gguf").symlink_to(default_model_path)
    path = tmp_path / "edge.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the measurement had ended with these: no machine gives the same twice."""

    async def survey(findings: Findings, *rest: Any) -> None:
        base, fast = Figures(100, 20, 60, 400_000_000), Figures(190, 38, 110, 410_000_000)
        findings.base = base
        findings.trials = [
            Trial("threads", 2, "better", 1.87, 1.8, 1.93, fast),
            Trial("batch", 512, "no better", 1.01, 0.98, 1.05, base),
            Trial("kv_type", "q4_0", "changes answers", 1.3, 1.2, 1.4, fast, 0.9),
        ]
        findings.proposal = {"threads": 2}

    monkeypatch.setattr(tune, "survey", survey)


@pytest.mark.timeout(300)
def test_short_measurement_of_the_real_model(run: Run, config: Path) -> None:
    """Whatever there was time for, every value is named, and nothing is written."""
    result = run("tune", "--config", str(config), "--minutes", "0.1", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["whole"], facts["written"], facts["model"]) == (True, None, NAME)
    tried = {trial["key"] for trial in facts["trials"]}
    assert {"batch", "slots", "kv_type"} <= tried <= {"threads", "batch", "slots", "kv_type"}
    for trial in facts["trials"]:
        assert trial["verdict"] != "fails", trial
    assert config.read_text() == TEXT


def test_result_is_shown_and_not_written(run: Run, config: Path, found: None) -> None:
    """Nobody is there to agree: the lines to write are shown."""
    result = run("tune", "--config", str(config))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "engine:" in lines
    assert lines[lines.index("engine:") + 1] == "  threads: 2"
    assert any("yours to decide" in line and "kv_type q4_0" in line for line in lines)
    assert "90.0%" in result.stdout
    assert "--apply" in result.stderr
    assert config.read_text() == TEXT


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_apply_writes_what_is_better(
    run: Run, config: Path, found: None, form: tuple[str, ...]
) -> None:
    """With the figures as a comment, a copy of the old file, and nothing else changed."""
    result = run("tune", "--config", str(config), "--apply", *form)
    assert result.exit_code == 0
    text = config.read_text()
    assert yaml.safe_load(text) == {
        **yaml.safe_load(TEXT),
        "engine": {"threads": 2, "slots": 4, "context": 512, "batch": 64},
    }
    assert "  threads: 2  # one\n" in text
    assert "# tune: threads 2: 1.87 times as fast (1.80 to 1.93): prompt 190," in text
    assert "kv_type" not in text
    assert config.with_name("edge.yaml.before-tune").read_text() == TEXT
    assert "Restart the daemon" in result.stderr
    if form:
        assert json.loads(result.stdout)["written"] == str(config)


def test_apply_without_a_file_is_refused_at_once(run: Run, config: Path) -> None:
    """And not after minutes."""
    result = run("tune", "--apply")
    assert result.exit_code == 2
    assert "no configuration file" in result.stderr


def test_unknown_model(run: Run, config: Path) -> None:
    """With the names there are."""
    result = run("tune", "--config", str(config), "--model", "nobody")
    assert result.exit_code == 1
    assert NAME in result.stderr


def test_model_that_embeds_is_not_measured(run: Run, config: Path, state: Path) -> None:
    """It generates nothing."""
    file = state / "models" / "vectors.gguf"
    bert.as_gguf(file, bert.random_bert(seed=5), bert.minilm_tokenizer())
    result = run("tune", "--config", str(config), "--model", "vectors")
    assert result.exit_code == 1
    assert "makes vectors" in result.stderr


def test_what_spoils_the_measurement_is_warned_of(
    run: Run,
    config: Path,
    found: None,
    daemon: FakeDaemon,
    status: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon, other work, and variables that win over what will be written."""
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 1.0, 1.0))
    daemon.serve(status)
    monkeypatch.setenv("EDGE_HTTP__PORT", str(daemon.port))
    monkeypatch.setenv("EDGE_ENGINE__THREADS", "1")
    said = run("tune", "--config", str(config)).stderr
    assert "a daemon runs here and computes 2 requests" in said
    assert "EDGE_ENGINE__THREADS is set" in said
    assert "the machine is busy: a load of 1000.0" in said


@pytest.mark.timeout(300)
def test_ctrl_c_shows_what_there_is_and_writes_nothing(config: Path, state: Path) -> None:
    """In the middle of the measurement; the workers are gone with it."""
    options = ["--minutes", "60", "--apply", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "edge", "tune", "--config", str(config), *options],
        env={**os.environ, "EDGE_STATE_DIR": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any(line.startswith("loading ") for line in process.stderr)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert json.loads(out)["whole"] is False
    assert config.read_text() == TEXT
