"""`edge models`: the catalog and the store as people and programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from split_model import split

from edge.cli import models
from edge.errors import PullFailed
from edge.modelstore.catalog import Entry
from edge.modelstore.pace import Pace
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.workspace import Progress

Run = Callable[..., Result]
NAME = "smollm2-135m-instruct"


def test_list_has_catalog_and_hand_copied_models(run: Run, tiny_model: Path) -> None:
    """Installed or not is told apart, and what nobody knows is a dash."""
    lines = {line.split()[0]: line.split() for line in run("models", "list").output.splitlines()}
    assert lines[NAME][1:4] == ["-", "98.0", "MB"]
    assert lines["tiny"][1:5] == ["yes", *_size(tiny_model).split(), "-"]
    assert lines["tiny"][6:] == ["MB", "-", "-"]  # predicted from the file's header


def test_list_for_programs(run: Run, tiny_model: Path) -> None:
    """Plain numbers and null for the unknown."""
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").output)}
    assert rows["tiny"]["path"] == str(tiny_model)
    assert rows["tiny"]["licence"] is None
    assert rows[NAME]["installed"] is False
    assert rows[NAME]["memory_bytes"] == 400_000_000
    assert rows["tiny"]["memory_bytes"] > 40_000_000


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

    def fetch(store: ModelStore, entry: Entry, progress: Progress, pace: Pace | None) -> Installed:
        for done in range(0, 1001, 5):
            progress(done * 1_000_000, 1_000_000_000)
        return Installed(entry.name, store.blob("0" * 64), 1_000_000_000, None)

    monkeypatch.setattr(models, "fetch", fetch)
    path = f"{state}/models/blobs/sha256-{'0' * 64}.gguf"
    result = run("models", "pull", NAME)
    assert result.exit_code == 0
    assert result.stdout == f"{NAME} is installed: {path}\n"
    lines = result.stderr.splitlines()
    assert len(lines) == 11
    assert lines[1] == f"{NAME}: 100.0 MB of 1.0 GB (10 %)"
    assert json.loads(run("models", "pull", NAME, "--json").stdout)["path"] == path


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


def test_versions_from_a_stick(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    """Import, import another, use it, go back, remove: each one command."""
    path = tiny_model.rename(tmp_path / "my-model.gguf")
    assert run("models", "import", str(path)).stdout.startswith("my-model is installed: ")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")  # another weight
    assert "edge models use my-model@2" in run("models", "import", str(path)).stdout
    assert _shown(run)["version"] == 1
    assert run("models", "use", "my-model@2").stdout.startswith("my-model means version 2 now")
    assert _shown(run)["version"] == 2
    assert "2 of 2" in run("models", "list").stdout
    assert json.loads(run("models", "rollback", "my-model", "--json").stdout)["version"] == 1
    versions = _shown(run)["versions"]
    assert [(one["version"], one["active"]) for one in versions] == [(1, True), (2, False)]
    assert versions[0]["activated_by"]
    assert "version 2" in run("models", "show", "my-model").stdout
    assert "are free again" in run("models", "rm", "my-model@2").stdout
    assert run("models", "rm", "my-model").exit_code == 0
    assert run("models", "show", "my-model").exit_code == 1
    assert run("models", "gc").stdout == "0 B are free again\n"


def test_a_folder_with_a_model_in_parts(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    """It is called as its parts are; a part that is missing is named."""
    stick = tmp_path / "stick"
    stick.mkdir()
    parts = split(tiny_model, stick, 2, "my-model")
    assert run("models", "import", str(stick)).stdout.startswith("my-model is installed: ")
    parts[1].unlink()
    result = run("models", "import", str(parts[0]))
    assert result.exit_code == 1
    assert f"{parts[1]} is missing: the model has 2 parts" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["pull", "https://host/m.gguf"], "needs --sha256"),
        (["pull", "https://host/m.gguf", "--sha256", "12"], "needs --sha256"),
        (["pull", NAME, "--sha256", "0" * 64], "are for a URL"),
        (["use", "my-model"], "is not NAME@VERSION"),
    ],
)
def test_misuse_of_models(run: Run, args: list[str], said: str) -> None:
    """Bad usage has exit code 2 and says what is missing."""
    result = run("models", *args)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("args", [["import", "none.gguf"], ["use", "x@1"], ["rm", "x"]])
def test_what_is_not_there(run: Run, args: list[str]) -> None:
    """An error with a way on."""
    result = run("models", *args)
    assert result.exit_code == 1
    assert "Try: " in result.stderr


def _shown(run: Run) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(run("models", "show", "my-model", "--json").stdout)
    return facts


def test_model_in_a_folder_is_listed_shown_and_removed(run: Run, tiny_model: Path) -> None:
    """Like one in a file; `show` tells what is wrong with it."""
    folder = tiny_model.parent / "vision"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(bytes(1000))
    (folder / "model.yaml").write_text("task: dream\n")
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").output)}
    assert rows["vision"]["installed"]
    assert rows["vision"]["kind"] == "folder"
    assert rows["vision"]["size_bytes"] == 1012
    shown = run("models", "show", "vision").output
    assert str(folder) in shown
    assert "model.yaml" in json.loads(run("models", "show", "vision", "--json").output)["problem"]
    assert run("models", "rm", "vision").exit_code == 0
    assert not folder.exists()
