"""`edge tune --power`: with a real worker, and a program in the place of the board's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvpmodel_stand_in
import pytest
from click.testing import Result
from recorded_trees import lay_out

from edge.host.nvpmodel import Mode
from edge.tuning.power_mode import ModeRefused, NeedsReboot, NoPowerModes, PowerModes
from edge.tuning.power_survey import ModeFigures, recommended

Run = Callable[..., Result]
NAME = "smollm2-135m-instruct"
MAXN, LOW, BEFORE, STRONG = (Mode(0, "MAXN"), Mode(1, "15W"), Mode(2, "30W"), Mode(3, "50W"))
PATIENCE = 240


class Board:
    """A recorded AGX Orin in mode 30W, whose 50W wants a reboot."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = lay_out("agx-orin-jetpack6", folder / "board")
        path = nvpmodel_stand_in.install(folder / "bin", reboot=(3,))
        monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
        monkeypatch.setenv("EDGE_HOST_ROOT", str(self.root))
        self.note = folder / "state" / "power-tune.json"

    @property
    def mode(self) -> str:
        return (self.root / "var/lib/nvpmodel/status").read_text()[:10]

    @property
    def calls(self) -> list[int]:
        file = self.root / "calls"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def modes(self) -> PowerModes:
        return PowerModes(self.root, self.note)


@pytest.fixture
def board(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


@pytest.fixture
def command(board: Board, quick_model_path: Path, tmp_path: Path) -> list[str]:
    """`edge tune --power`, for a model that is there at once."""
    models = tmp_path / "state" / "models"
    models.mkdir(parents=True)
    (models / f"{NAME}.gguf").symlink_to(quick_model_path)
    (tmp_path / "edge.yaml").write_text("engine: {threads: 1, slots: 4, context: 512}\n")
    config = ["--config", str(tmp_path / "edge.yaml")]
    return ["tune", *config, "--power", "--minutes", "0.05"]


def begin(command: list[str], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edge", *command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The whole of it


@pytest.mark.timeout(300)
def test_best_mode_is_set_where_somebody_said_yes(
    run: Run, board: Board, command: list[str]
) -> None:
    """The one with the most tokens for a joule: here all are as fast, and 15W draws the least.
    A mode that wants a reboot is told of and not measured, and nothing reboots."""
    result = run(*command, "--yes", "--json")
    assert result.exit_code == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    assert facts["best"] == facts["current"] == {"id": 1, "name": "15W"}
    assert facts["before"] == {"id": 2, "name": "30W"}
    verdicts = {one["mode"]["name"]: one["verdict"] for one in facts["modes"]}
    measured = dict.fromkeys(("30W", "MAXN", "15W"), "measured")
    assert verdicts == {**measured, "50W": "needs a reboot"}
    drawn = {one["mode"]["name"]: one["watts"] for one in facts["modes"]}
    # What the stand-in has the first rail draw, and the other rails of the recording.
    others = 19.832 * 0.160 + 5.056 * 0.952
    for name, milliamperes in (("MAXN", 60_000), ("15W", 100)):
        assert drawn[name] == pytest.approx(19.832 * milliamperes / 1000 + others, rel=0.1)
    assert not (board.root / "rebooted").exists()
    assert board.mode == "pmode:0001"
    # Each is tried, the first is given back, and the best is set.
    assert board.calls == [0, 1, 3, 2, 1]
    assert not board.note.exists()


@pytest.mark.timeout(300)
def test_mode_stays_where_nobody_agrees_or_none_is_fast_enough(
    run: Run, board: Board, command: list[str]
) -> None:
    """Without a terminal and `--yes` nothing is even tried; an impossible speed is an error."""
    result = run(*command)
    assert (result.exit_code, board.calls) == (1, [])
    assert "MAXN, 15W" in result.stderr
    assert "Try: say --yes" in result.stderr
    result = run(*command, "--yes", "--speed", "1000000000")
    assert result.exit_code == 1
    assert "no power mode gives 1e+09 tokens a second" in result.stderr
    assert "Try: the fastest gives" in result.stderr
    for name in ("30W", "MAXN", "15W", "50W is taken up by a reboot only"):
        assert name in result.stdout
    assert board.mode == "pmode:0002"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_ended_gives_the_mode_back(
    board: Board, command: list[str], ending: signal.Signals
) -> None:
    """In the middle of another mode."""
    with begin(command, "--yes", "--minutes", "60") as process:
        try:
            assert process.stderr is not None
            assert any("in the mode MAXN" in line for line in process.stderr)
            assert board.mode == "pmode:0000"
            process.send_signal(ending)
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert board.mode == "pmode:0002"
    assert not board.note.exists()


@pytest.mark.timeout(300)
def test_run_that_is_killed_is_mended_by_the_next(
    run: Run, board: Board, command: list[str]
) -> None:
    """Which says so, and sets the mode before anything else."""
    with begin(command, "--yes", "--minutes", "60") as process:
        assert process.stderr is not None
        assert any("in the mode MAXN" in line for line in process.stderr)
        process.kill()
    assert board.mode == "pmode:0000"
    result = run(*command)
    assert result.exit_code == 1  # nobody agreed to a measurement
    assert "an earlier run was killed in the mode MAXN; 30W is set again" in result.stderr
    assert board.mode == "pmode:0002"
    assert not board.note.exists()


def test_machine_without_power_modes(
    run: Run, board: Board, command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A PC has none, whatever is on its PATH."""
    monkeypatch.setenv("EDGE_HOST_ROOT", str(lay_out("pc", tmp_path / "pc")))
    result = run(*command, "--yes")
    assert result.exit_code == 1
    assert "Error: this machine has no power modes" in result.stderr
    assert "Try: edge tune" in result.stderr


def test_options_of_the_other_measurement(run: Run, board: Board, command: list[str]) -> None:
    """Are bad usage, as those of this one are without `--power`."""
    assert run(*command, "--apply").exit_code == 2
    plain = [word for word in command if word != "--power"]
    assert run(*plain, "--speed", "5").exit_code == 2


# Its parts


def test_mode_that_cannot_be_set_leaves_the_one_before(board: Board) -> None:
    """Told apart: what a reboot would mend, and what nvpmodel failed at."""
    modes = board.modes()
    with pytest.raises(NeedsReboot):
        modes.set(STRONG)
    (board.root / "broken-0").touch()
    with pytest.raises(ModeRefused, match="failed to set power mode"):
        modes.set(MAXN)
    assert modes.current == BEFORE
    modes.set(BEFORE)  # which is set, and might want a reboot all the same
    assert board.calls == [3, 0]


def test_mode_that_cannot_be_given_back_is_an_error(board: Board) -> None:
    """And is not forgotten: the next run tries again."""
    modes = board.modes()
    (board.root / "broken-2").touch()
    with pytest.raises(ModeRefused, match="30W"), modes.kept():  # noqa: PT012
        modes.try_out(LOW, BEFORE)
        assert modes.current == LOW
    (board.root / "broken-2").unlink()
    assert "30W is set again" in (board.modes().mend() or "")
    assert board.mode == "pmode:0002"
    assert board.modes().mend() is None


def test_mode_that_somebody_has_set_since_stays(board: Board) -> None:
    """What a killed run left is no reason to undo it."""
    modes = board.modes()
    modes.try_out(LOW, BEFORE)
    modes.set(MAXN)
    assert "stays" in (board.modes().mend() or "")
    assert board.mode == "pmode:0000"


def test_board_without_the_program(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container."""
    monkeypatch.setenv("PATH", str(board.root))
    with pytest.raises(NoPowerModes):
        board.modes()


def test_most_tokens_for_a_joule_among_the_fast_enough() -> None:
    """What was not measured is never recommended."""
    slow = ModeFigures(LOW, "measured", 10.0, 30.0, 12.0, 2.0)
    fast = ModeFigures(MAXN, "measured", 40.0, 90.0, 50.0, 1.0)
    middle = ModeFigures(BEFORE, "measured", 25.0, 60.0, 25.0, 1.5)
    modes = [fast, middle, slow, ModeFigures(STRONG, "needs a reboot")]
    assert recommended(modes, 0) is slow
    assert recommended(modes, 20) is middle
    assert recommended(modes, 25) is middle
    assert recommended(modes, 26) is fast
    assert recommended(modes, 41) is None
