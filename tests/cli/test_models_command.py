"""`edge models`: the catalog and the store as people and programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from edge.cli import models
from edge.errors import PullFailed
from edge.modelstore.catalog import Entry
from edge.modelstore.store import ModelStore
from edge.modelstore.workspace import Progress

Run = Callable[..., Result]
NAME = "smollm2-135m-instruct"


def test_list_has_catalog_and_hand_copied_models(run: Run, tiny_model: Path) -> None:
    """Installed or not is told apart, and what nobody knows is a dash."""
    lines = {line.split()[0]: line.split() for line in run("models", "list").output.splitlines()}
    assert lines[NAME][1:4] == ["-", "98.0", "MB"]
    assert lines["tiny"][1:] == ["yes", *_size(tiny_model).split(), "-", "-", "-", "-"]


def test_list_for_programs(run: Run, tiny_model: Path) -> None:
    """Plain numbers and null for the unknown."""
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").output)}
    assert rows["tiny"]["path"] == str(tiny_model)
    assert rows["tiny"]["licence"] is None
    assert rows[NAME]["installed"] is False
    assert rows[NAME]["memory_bytes"] == 400_000_000


def test_show_reads_the_file(run: Run, tiny_model: Path) -> None:
    """The header's facts beside the catalog's."""
    shown = json.loads(run("models", "show", "tiny", "--json").output)
    assert shown["file"]["architecture"] == "llama"
    assert shown["file"]["context"] == 4096
    assert "file.architecture" in run("models", "show", "tiny").output


def test_show_of_a_model_that_is_not_installed(run: Run) -> None:
    """The catalog is enough."""
    result = run("models", "show", NAME)
    assert result.exit_code == 0
    assert "98.0 MB" in result.output


def test_show_of_a_broken_file_fails(run: Run, tiny_model: Path) -> None:
    """A truncated file is not described as if it were whole."""
    tiny_model.write_bytes(tiny_model.read_bytes()[:-600])
    result = run("models", "show", "tiny")
    assert result.exit_code == 1
    assert str(tiny_model) in result.stderr


@pytest.mark.parametrize("verb", ["show", "pull"])
def test_unknown_model_is_an_error(verb: str, run: Run) -> None:
    """With the way to the names there are."""
    result = run("models", verb, "nonsense")
    assert result.exit_code == 1
    assert "nonsense" in result.stderr
    assert "Try: edge models list" in result.stderr


def test_pull_tells_each_tenth_off_a_terminal(
    run: Run, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log gets some lines, not thousands; the last line says where the model is."""

    def fetch(store: ModelStore, entry: Entry, progress: Progress) -> Path:
        for done in range(0, 1001, 5):
            progress(done * 1_000_000, 1_000_000_000)
        return store.directory / f"{entry.name}.gguf"

    monkeypatch.setattr(models, "fetch", fetch)
    result = run("models", "pull", NAME)
    assert result.exit_code == 0
    assert result.stdout == f"{NAME} is installed: {state}/models/{NAME}.gguf\n"
    lines = result.stderr.splitlines()
    assert len(lines) == 11
    assert lines[1] == f"{NAME}: 100.0 MB of 1.0 GB (10 %)"
    path = json.loads(run("models", "pull", NAME, "--json").stdout)["path"]
    assert path == f"{state}/models/{NAME}.gguf"


def test_failed_pull_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said to be installed."""

    def fetch(*_: object) -> Path:
        raise PullFailed("the source does not answer", hint="check the network")

    monkeypatch.setattr(models, "fetch", fetch)
    result = run("models", "pull", NAME)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the source does not answer\nTry: check the network\n"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1000:.0f} kB"
