"""`edge update` as a command of a version that lies in a slot."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
from software import DOES_NOT_ANSWER, Box, Factory

from edge import __file__ as package


class Command:
    """The version in use is a virtual environment; it finds libraries and this tree elsewhere."""

    def __init__(self, box: Box) -> None:
        self.box = box
        slot = box.base / "1.0.0"
        python = Path(sys.executable).resolve()
        (slot / "bin").mkdir()
        (slot / "bin" / "python").symlink_to(python)
        (slot / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        root = box.base.parent
        (root / "etc" / "os-release").write_text('ID=debian\nVERSION_ID="12"\n')
        paths = [str(Path(package).parents[1]), *site.getsitepackages()]
        self.environment = {
            **os.environ,
            "PYTHONPATH": ":".join(paths),
            "EDGE_HOST_ROOT": str(root),
            "EDGE_CONFIG": str(root / "etc" / "edge.yaml"),
        }
        (root / "etc" / "edge.yaml").touch()

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.box.base / "1.0.0" / "bin" / "python"), "-m", "edge", "update"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=self.environment
        )


@pytest.fixture
def update(box: Box) -> Command:
    if os.geteuid() != 0:
        pytest.skip("it has to be root")
    return Command(box)


def test_from_looking_to_installed(update: Command, factory: Factory) -> None:
    bundle = str(factory.bundle("2.0.0"))
    assert update().stdout == "edge 1.0.0 is in use\n"
    looked = update(bundle, "--check")
    assert looked.returncode == 0, looked.stderr
    assert f"signed with   {factory.key.fingerprint}\n" in looked.stdout
    assert looked.stdout.endswith("It may be installed here\n")
    done = update(bundle)
    assert done.stdout == "edge 2.0.0 is in use; 1.0.0 is kept: edge update --back\n", done.stderr
    assert "==> Installing 2.0.0\n" in done.stderr
    assert "It is in use already" in update(bundle, "--check").stdout
    assert "nothing to do" in update(bundle).stdout
    first, heads, line = update().stdout.splitlines()
    assert first == "edge 2.0.0 is in use; 1.0.0 is kept: edge update --back"
    assert heads.split() == ["BEGAN", "FROM", "TO", "OUTCOME", "SOURCE"]
    assert line.split()[1:] == ["1.0.0", "2.0.0", "installed", bundle]


def test_for_programs(update: Command, factory: Factory) -> None:
    factory.bundle("2.0.0")
    checked = json.loads(update(str(factory.folder), "--check", "--json").stdout)
    assert (checked["version"], checked["before"], checked["in_use"]) == ("2.0.0", "1.0.0", False)
    assert checked["missing_bytes"] == checked["size"]
    done = json.loads(update(str(factory.folder), "--json").stdout)
    assert (done["version"], done["update"]["outcome"]) == ("2.0.0", "installed")
    state = json.loads(update("--json").stdout)
    assert state["updates"] == [done["update"]]
    assert (state["version"], state["before"], state["on_trial"]) == ("2.0.0", "1.0.0", False)


def test_failures_are_told_with_a_way_out(update: Command, factory: Factory) -> None:
    bundle = str(factory.bundle("2.0.0", DOES_NOT_ANSWER))
    done = update(bundle)
    assert done.returncode == 1
    assert done.stderr.endswith("Error: edge 2.0.0 does not answer\nTry: the other one\n")
    assert "did not answer here at" in update(bundle).stderr
    back = update("--back")
    assert back.returncode == 1
    (update.box.base / "2.0.0").rename(update.box.base / "gone")
    assert "there is no version before this one" in update("--back").stderr
    assert update("/nowhere/edge.tar").returncode == 1


@pytest.mark.parametrize(
    "arguments", [["--check"], ["x.tar", "--back"], ["--retry"], ["--back", "--check"]]
)
def test_wrong_usage(update: Command, arguments: list[str]) -> None:
    done = update(*arguments)
    assert done.returncode == 2
    assert "give an address, a file or a folder; or --back alone" in done.stderr


def test_a_program_in_no_slot_has_nothing_to_update() -> None:
    command = [sys.executable, "-m", "edge", "update"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "was not installed by scripts/install.sh" in done.stderr
