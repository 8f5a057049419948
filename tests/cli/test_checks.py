"""The doctor's findings, each from facts that are right, wrong or unknown."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.cli import checks
from edge.cli.client import ForeignAnswer
from edge.cli.daemon_status import Status
from edge.config.models import Engine
from edge.errors import ConfigError
from edge.host import disk
from edge.host.llama_build import BrokenBuild, LlamaBuild
from edge.modelstore.store import ModelStore

MACHINES = Path(__file__).parents[1] / "host" / "machines"
CPU_BUILD = LlamaBuild("0.3.36", False, "CPU : AVX2 = 1 | OPENMP = 1 | ")
CUDA_BUILD = LlamaBuild("0.3.36", True, "CUDA : ARCHS = 870 | CPU : NEON = 1 | ")
DEFAULT = "smollm2-135m-instruct"


def test_python_that_runs_us_is_new_enough() -> None:
    """Else this test would not run."""
    assert checks.python().status == "ok"


def test_missing_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is built already goes on working."""
    monkeypatch.setenv("PATH", str(tmp_path))
    check = checks.compiler(MACHINES / "xeon")
    assert check.status == "warn"
    assert "build-essential" in (check.fix or "")


def test_missing_nvcc_matters_only_with_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And it is found where the PATH of services does not look."""
    _program(tmp_path / "bin" / "c++")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert checks.compiler(MACHINES / "xeon").status == "ok"
    assert checks.compiler(MACHINES / "orin").status == "warn"
    orin = Path(shutil.copytree(MACHINES / "orin", tmp_path / "orin"))
    _program(orin / "usr/local/cuda/bin/nvcc")
    assert checks.compiler(orin).status == "ok"


@pytest.mark.parametrize(
    ("machine", "found"), [("xeon", "AVX2 AVX512 VNNI AVX-VNNI"), ("orin", "dotprod")]
)
def test_processor_names_what_llama_cpp_uses(machine: str, found: str) -> None:
    """The instruction sets by the names that people know."""
    check = checks.processor(MACHINES / machine)
    assert check.status == "ok"
    assert check.finding.endswith(f", {found}")


@pytest.mark.parametrize(
    ("cpuinfo", "missing"),
    [("flags : sse2 avx\n", "AVX2"), ("Features : fp asimd\n", "dotprod"), ("", "mounted")],
)
def test_weak_or_unknown_processor_is_a_warning(cpuinfo: str, missing: str, tmp_path: Path) -> None:
    """It works, slowly; and the unknown is not called fine."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    check = checks.processor(tmp_path)
    assert check.status == "warn"
    assert missing in (check.fix or "")


def test_cpu_build_beside_a_gpu_fails() -> None:
    """The silent failure that this check is for; on a plain machine the same build is fine."""
    for machine in ("orin", "container"):
        check = checks.back_end(CPU_BUILD, "auto", MACHINES / machine)
        assert check.status == "fail"
        assert "-DGGML_CUDA=ON" in (check.fix or "")
    assert checks.back_end(CPU_BUILD, "auto", MACHINES / "xeon").status == "ok"


def test_build_with_cuda_is_called_so() -> None:
    """The live back end comes first."""
    check = checks.back_end(CUDA_BUILD, "cuda", MACHINES / "orin")
    assert check.status == "ok"
    assert check.finding.startswith("CUDA, llama-cpp-python 0.3.36")


def test_configured_cuda_without_it_fails() -> None:
    """The daemon would refuse to start."""
    check = checks.back_end(CPU_BUILD, "cuda", MACHINES / "xeon")
    assert check.status == "fail"
    assert "engine.backend" in (check.fix or "")


def test_broken_build_fails_with_its_reason() -> None:
    """However the library died."""
    check = checks.back_end(BrokenBuild("importing it ends with SIGILL"), "auto")
    assert check.status == "fail"
    assert "SIGILL" in check.finding


def test_missing_amx_is_a_warning_where_the_processor_has_it() -> None:
    """It makes prompts several times as fast; elsewhere there is nothing to say."""
    with_amx = LlamaBuild("0.3.36", False, "CPU : AVX2 = 1 | AMX_INT8 = 1 | ")
    assert checks.amx(with_amx, MACHINES / "xeon").status == "ok"
    assert checks.amx(CPU_BUILD, MACHINES / "orin").status == "ok"
    without = checks.amx(CPU_BUILD, MACHINES / "xeon")
    assert without.status == "warn"
    assert "-fno-dse" in (without.fix or "")


@pytest.mark.parametrize(
    ("available", "loaded", "status"),
    [
        (399_000_000, False, "fail"),
        (400_000_000, False, "ok"),
        (None, False, "warn"),
        (1_000_000, True, "ok"),
    ],
)
def test_memory_against_the_need_of_the_catalog(
    available: int | None, loaded: bool, status: str, tmp_path: Path
) -> None:
    """400 MB for the default model; one that is loaded has its memory already."""
    store = ModelStore(tmp_path)
    assert checks.memory(available, store, DEFAULT, Engine(), loaded).status == status


def test_memory_need_of_a_model_of_ones_own(tiny_model: Path) -> None:
    """By the guard's own prediction: what it would refuse is a failure here, with its words."""
    store, engine = ModelStore(tiny_model.parent), Engine(slots=1, context=2048)
    enough = checks.memory(1_000_000_000, store, "tiny", engine, False)
    assert enough.status == "ok"
    assert "context 2048 with 1 slot in f16" in enough.finding
    short = checks.memory(10_000_000, store, "tiny", engine, False)
    assert short.status == "fail"
    assert "tiny does not fit: weights" in short.finding
    assert checks.memory(1_000_000_000, store, "gone", engine, False).status == "warn"


@pytest.mark.parametrize(
    ("free", "status"),
    [(3_000_000_000, "ok"), (1_000_000_000, "warn"), (100_000_000, "fail"), (None, "warn")],
)
def test_disk_space(
    free: int | None, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Low is a warning, nearly none a failure, unknown never fine."""
    monkeypatch.setattr(disk, "free_bytes", lambda _: free)
    assert checks.space(tmp_path).status == status


def test_port_is_free_or_ours_or_taken(free_port: int) -> None:
    """Only another program's hold on it is a failure."""
    assert checks.port("127.0.0.1", free_port, daemon_answers=False).status == "ok"
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert checks.port("127.0.0.1", taken, daemon_answers=False).status == "fail"
        assert checks.port("127.0.0.1", taken, daemon_answers=True).status == "ok"
    assert checks.port("127.0.0.1", 0, daemon_answers=False).status == "ok"


def test_address_of_another_machine_cannot_be_listened_on() -> None:
    """203.0.113.1 is kept for documentation: no machine has it."""
    assert checks.port("203.0.113.1", 8080, daemon_answers=False).status == "fail"


def test_model_file_is_checked(tiny_model: Path) -> None:
    """Whole is ok, truncated is not, and a missing one has the command that fetches it."""
    store = ModelStore(tiny_model.parent)
    fine = checks.model(store, "tiny")
    assert (fine.status, "without a chat template" in fine.finding) == ("ok", True)
    tiny_model.write_bytes(tiny_model.read_bytes()[:-600])
    assert checks.model(store, "tiny").status == "fail"
    assert checks.model(store, "gone").status == "fail"
    other = checks.model(store, "tinyllama-1.1b-chat")
    assert (other.status, other.fix) == ("fail", "edge models pull tinyllama-1.1b-chat")


def test_default_model_that_serve_will_fetch_is_a_warning(tmp_path: Path) -> None:
    """A fresh machine is not a broken one."""
    assert checks.model(ModelStore(tmp_path), DEFAULT).status == "warn"


@pytest.mark.parametrize(
    ("change", "expected", "word"),
    [
        ({}, "ok", "tiny ready on CPU"),
        ({"state": "loading", "facts": None, "stats": None}, "ok", "tiny loading"),
        ({"state": "failed", "error": "out of memory"}, "fail", "out of memory"),
        ({"restarts": 2}, "warn", "2 restarts"),
    ],
)
def test_daemon_state(
    change: dict[str, Any], expected: str, word: str, status: dict[str, Any]
) -> None:
    """A failed model fails, one that died and came back warns."""
    status["models"][0] |= change
    check = checks.daemon(msgspec.convert(status, Status))
    assert check.status == expected
    assert word in check.finding


def test_no_daemon_is_fine_and_a_foreign_one_is_not() -> None:
    """The doctor is also asked before the first start."""
    assert checks.daemon(None).status == "ok"
    assert checks.daemon(ForeignAnswer("it answered with HTTP status 404")).status == "fail"


def test_refused_configuration_fails_with_its_hint() -> None:
    """The words of the loader."""
    check = checks.configuration(ConfigError("edge.yaml:3: no", hint="did you mean"), "edge.yaml")
    assert (check.status, check.finding, check.fix) == ("fail", "edge.yaml:3: no", "did you mean")


def _program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
