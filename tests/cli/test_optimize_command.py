"""`edge models optimize`: what it says, what it leaves, and what others say of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result

from edge.cli import checks
from edge.cli.advice import advice, packed_here
from edge.disk import sha256_of
from edge.host import cpu
from edge.host.llama_build import LlamaBuild
from edge.modelstore import gguf
from edge.modelstore.store import DRAFT, Installed, ModelStore
from edge.modelstore.versions import Measured, manifest_of
from edge.tuning.candidate import Figures
from edge.tuning.loss import Loss
from edge.tuning.trial import Trial
from edge.tuning.weights import Optimization, Outcome

Run = Callable[..., Result]
MACHINES = Path(__file__).parents[1] / "host" / "machines"
MEASURED = Measured(1, cpu.model(), 1.62, 1.5, 1.7, 0.031, 0.91, 15.0, 14.3)
PLAIN_PC = LlamaBuild("0.3.36", False, "CPU : AVX2 = 1 | REPACK = 1 | ")
AMX_PC = LlamaBuild("0.3.36", False, "CPU : AVX2 = 1 | AMX_INT8 = 1 | REPACK = 1 | ")


@pytest.fixture
def store(state: Path, default_model_path: Path) -> ModelStore:
    store = ModelStore(state / "models")
    install(store, default_model_path, "m")
    return store


def install(
    store: ModelStore, path: Path, name: str, extra: bytes = b"", measured: Measured | None = None
) -> Installed:
    """extra: bytes behind the end, which make it another file."""
    with store.claim(name) as folder:
        copy = folder / "copy"
        shutil.copyfile(path, copy)
        with open(copy, "ab") as file:
            file.write(extra)
        manifest = manifest_of(gguf.read_header(copy), sha256_of(copy), "file:x", "MIT")
        return store.add(name, copy, msgspec.structs.replace(manifest, measured=measured))


@pytest.fixture
def found(store: ModelStore, default_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a run had found Q8_0 the best, and Q4_0 faster yet too coarse."""

    def run(work: Optimization, kinds: Any, follow: Any, named: bool = False) -> None:
        figures = Figures(190, 38, 110, 410_000_000)
        work.findings.base = Figures(100, 20, 60, 400_000_000)
        for kind, ratio, lost in (("Q8_0", 1.4, 0.004), ("Q4_0", 1.9, 0.24)):
            trial = Trial("weights", kind, "better", ratio, ratio - 0.05, ratio + 0.05, figures)
            loss = Loss(800, lost, 0.001, 0.96, 14.4, 14.3)
            work.findings.outcomes.append(Outcome(kind, trial, 90_000_000, loss))  # type: ignore[arg-type]
        work.findings.installed = install(store, default_model_path, "m", b"\0")

    monkeypatch.setattr(Optimization, "run", run)


def test_table_and_what_to_do(run: Run, store: ModelStore, found: None) -> None:
    """The figures of the source, of what was installed, and of what was too coarse."""
    result = run("models", "optimize", "m", "--type", "Q8_0")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "the source" in lines["Q4_1"]
    assert "1.40 (1.35 to 1.45)" in lines["Q8_0"]
    assert lines["Q8_0"].endswith("better")
    assert lines["Q4_0"].endswith("loses too much")
    assert "edge models use m@2" in result.stdout
    assert store.get("m").version == 1
    assert "adds no quality" in result.stderr


def test_what_was_made_waits_to_be_used(run: Run, store: ModelStore, found: None) -> None:
    """The name means what it meant; who asked for a type by name gets it whatever it loses."""
    result = run("models", "optimize", "m", "--type", "Q4_0", "--json")
    facts = json.loads(result.stdout)
    assert [row["verdict"] for row in facts["outcomes"]] == ["better", "loses too much"]
    assert facts["installed"]["active"] is False
    assert store.get("m").version == 1


def test_nothing_to_try_is_said(
    run: Run, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a build that lays out nothing."""
    monkeypatch.setattr(
        "edge.host.llama_build.probe", lambda: LlamaBuild("0.3.36", False, "CPU : X = 1 |")
    )
    result = run("models", "optimize", "m")
    assert result.exit_code == 0
    assert "finer types would add no quality" in result.stderr
    assert "Nothing is installed" in result.stdout


@pytest.mark.parametrize(
    ("args", "word"), [(["nobody"], "installed models: m"), (["m", "--type", "Q3"], "Q4_0")]
)
def test_bad_arguments(run: Run, store: ModelStore, args: list[str], word: str) -> None:
    """With what there is."""
    result = run("models", "optimize", *args)
    assert result.exit_code != 0
    assert word in result.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle(run: Run, store: ModelStore, number: signal.Signals) -> None:
    """No half version; what SIGKILL leaves is swept, after Ctrl-C nothing is left."""
    with subprocess.Popen(
        [sys.executable, "-m", "edge", "models", "optimize", "m", "--type", "Q4_0"],
        env={**os.environ, "EDGE_ENGINE__THREADS": "1", "EDGE_ENGINE__SLOTS": "4"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert any(line.startswith("making Q4_0") for line in process.stderr)
        process.send_signal(number)
        process.stderr.read()
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert [model.version for model in store.versions("m")] == [1]
    if number == signal.SIGKILL:
        (store.partial / "m" / f"Q4_0{DRAFT}").touch()  # as it is once llama.cpp has begun to write
    assert run("models", "gc").exit_code == 0
    assert not list(store.directory.rglob(f"*{DRAFT}"))
    assert store.get("m").version == 1


def test_doctor_offers_what_is_faster(store: ModelStore, default_model_path: Path) -> None:
    """Q4_1 where the build does not lay it out; what was measured here, once it was."""
    offer = checks.weights(PLAIN_PC, store, "m")
    assert (offer.status, offer.fix) == ("ok", "edge models optimize m")
    assert "Q4_1" in offer.finding
    assert checks.weights(AMX_PC, store, "m").fix is None
    assert checks.weights(PLAIN_PC, store, "nobody").status == "ok"
    install(store, default_model_path, "m", b"\0", MEASURED)
    for build in (PLAIN_PC, AMX_PC):
        offer = checks.weights(build, store, "m")
        assert offer.fix == "edge models use m@2"
        assert "1.6 times" in offer.finding
    store.activate("m", 2)
    assert checks.weights(AMX_PC, store, "m").fix is None


def test_figures_of_another_machine_count_nothing(
    store: ModelStore, default_model_path: Path
) -> None:
    """A store that came on a stick, or a box that was replaced."""
    foreign = msgspec.structs.replace(MEASURED, machine="another")
    install(store, default_model_path, "m", b"\0", foreign)
    assert checks.weights(AMX_PC, store, "m").fix is None


def test_list_and_show_name_the_command(
    run: Run, store: ModelStore, default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a PC without AMX; and the figures stand with their version."""
    monkeypatch.setattr("edge.cli.models.packed_here", lambda: frozenset({"Q4_0"}))
    for command in (["list"], ["show", "m"]):
        assert "edge models optimize m" in run("models", *command).stdout
    install(store, default_model_path, "m", b"\0", MEASURED)
    shown = run("models", "show", "m").stdout
    assert "edge models use m@2" in shown
    assert "1.62 (1.50 to 1.70) times as fast as version 1" in shown
    assert "KL 0.0310" in shown
    facts = json.loads(run("models", "show", "m", "--json").stdout)
    assert facts["advice"]["command"] == "edge models use m@2"
    assert facts["versions"][1]["measured"]["speed"] == 1.62


def test_no_offer_where_a_gpu_computes_or_no_version_can_be_made(
    tmp_path: Path, default_model_path: Path
) -> None:
    """A Jetson's CPU does nothing with the weights; a file copied in by hand has no versions."""
    assert packed_here(MACHINES / "orin") == frozenset()
    (tmp_path / "m.gguf").symlink_to(default_model_path)
    store = ModelStore(tmp_path)
    assert advice(store, store.get("m"), "Q4_1", frozenset({"Q4_0"})) is None
