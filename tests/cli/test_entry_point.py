"""How the command starts and how it fails, as the shell and systemd see it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

import edge
from edge.cli import models
from edge.cli.main import Commands
from edge.cli.reference import reference
from edge.config.tree import Config

Run = Callable[..., Result]


def test_version(run: Run) -> None:
    """The package's own."""
    assert run("--version").output == f"edge {edge.__version__}\n"


def test_version_needs_no_command(state: Path) -> None:
    """Nothing that a sub-command needs is imported for it: boards start Python slowly."""
    code = (
        "import sys; from edge.cli.main import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'httpx', 'rich', 'uvicorn', 'llama_cpp'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert child.stdout.decode().splitlines()[1] == "[]"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nonsense"], 2, "Error: No such command 'nonsense'."),
        (["status", "--nonsense"], 2, "Error: No such option"),
        (["serve", "--config", "/nowhere.yaml"], 2, "Error: /nowhere.yaml: no such file"),
        (["config", "check", "/nowhere.yaml"], 2, "Error: /nowhere.yaml: no such file"),
        (["models", "show", "nonsense"], 1, "Error: the model 'nonsense' is not installed"),
    ],
)
def test_failures_have_exit_codes_and_no_traceback(
    args: list[str], code: int, message: str, state: Path
) -> None:
    """Two lines on stderr, nothing on stdout."""
    child = subprocess.run([sys.executable, "-m", "edge", *args], capture_output=True, check=False)
    assert child.returncode == code
    assert child.stdout == b""
    first, second = child.stderr.decode().splitlines()
    assert first.startswith(message)
    assert second.startswith("Try: ")


def test_reader_that_goes_away_is_no_failure_to_report(state: Path) -> None:
    """`edge … | head` ends quietly."""
    command = [sys.executable, "-m", "edge", "config", "show"]
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert child.stderr == b""


def test_serve_hands_over_the_configuration(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's exit code is the command's."""
    seen: list[Config] = []

    def daemon_run(config: Config, read: Callable[[], Config]) -> int:
        seen.append(config)
        return 7

    monkeypatch.setattr(edge, "daemon", SimpleNamespace(run=daemon_run), raising=False)
    file = tmp_path / "edge.yaml"
    file.write_text("http: {port: 9000}\n")
    assert run("serve", "--config", str(file)).exit_code == 7
    assert seen[0].http.port == 9000


def test_bug_is_one_line_with_its_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users get no traceback, and whoever mends it gets the line."""
    monkeypatch.setattr(models, "load_catalog", lambda **_: {}["gone"])
    result = run("models", "list")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: a bug in edge: KeyError: 'gone' (test_entry_point.py:")


def test_full_disk_is_no_bug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is told in its words."""

    def refused(**_: object) -> None:
        raise OSError(28, "No space left on device", "/models/x")

    monkeypatch.setattr(models, "load_catalog", refused)
    result = run("models", "list")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr


def test_reference_describes_every_command() -> None:
    """All commands, and no option or command without a text."""
    commands = reference()
    assert {command.path.split()[1] for command in commands} == set(Commands.modules)
    assert all(command.help for command in commands)
    assert all(option.help for command in commands for option in command.options)
    chat = next(command for command in commands if command.path == "edge chat")
    assert chat.arguments == "[PROMPT]"
    assert "--max-tokens N" in [option.names for option in chat.options]
