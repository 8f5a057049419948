"""A model that drafts, named in the configuration of the whole appliance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, Start
from full_size import Family, Kind, write

BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Why do bearings run hot?"}],
    "temperature": 0,
    "max_tokens": 60,
}


@pytest.fixture
def folder(tmp_path: Path, coarse_model_path: Path) -> Path:
    """Of a daemon, with the model installed that is to draft."""
    models = tmp_path / "daemon" / "state" / "models"
    models.mkdir(parents=True)
    (models / "small.gguf").symlink_to(coarse_model_path)
    return tmp_path / "daemon"


def drafts(name: str) -> str:
    return f"{{{MODEL}: {name}}}"


def answer(daemon: DaemonProcess) -> str:
    response = daemon.post("/v1/chat/completions", BODY)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_texts_are_the_same_and_it_is_counted(start: Start, folder: Path) -> None:
    """The status tells who drafts and what both take, the metrics what came of it. `none` means
    none, whatever is named."""
    without = start(folder=folder, engine__draft="none", models__drafts=drafts("small"))
    text = answer(without.wait_ready())
    alone = without.status()
    assert alone["facts"]["draft_model"] == ""
    assert without.metrics()["edge_draft_tokens_total"] == 0
    assert without.stop() == 0
    daemon = start(folder=folder, models__drafts=drafts("small"))
    assert answer(daemon.wait_ready()) == text
    status, metrics = daemon.status(), daemon.metrics()
    assert status["facts"]["draft_model"] == "small"
    more = status["memory"]["weights_bytes"] - alone["memory"]["weights_bytes"]
    assert more == (folder / "state" / "models" / "small.gguf").stat().st_size
    assert metrics["edge_draft_tokens_total"] > 0
    assert metrics["edge_draft_accepted_tokens_total"] > 0


def refused(daemon: DaemonProcess, code: int) -> str:
    assert daemon.process.wait(PATIENCE) == code
    lines = daemon.log.splitlines()
    assert "Traceback" not in daemon.log
    assert len([line for line in lines if line.startswith("Try: ")]) == 1
    return next(line for line in lines if line.startswith("Error: "))


def test_model_that_is_not_installed(start: Start) -> None:
    """Said before anything is loaded, by the key; systemd does not try it again."""
    error = refused(start(models__drafts=drafts("small")), 2)
    assert f"`models.drafts.{MODEL}`: the model 'small' is not installed" in error


def test_model_with_another_vocabulary(start: Start, folder: Path) -> None:
    """Said when both are loaded: an appliance that is slower than it was set up to be would be a
    defect that nobody sees."""
    family = Family("llama", 2, 64, 4, 2, 16, 128, 1000, 512)
    write(folder / "state" / "models" / "other.gguf", family, Kind.F16)
    error = refused(start(folder=folder, models__drafts=drafts("other")), 1)
    assert f"models.drafts.{MODEL}: other cannot draft" in error
