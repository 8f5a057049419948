from pathlib import Path

import pytest

from edge.host import llama_build
from edge.host.llama_build import BrokenBuild, LlamaBuild


def test_installed_build_tells_what_it_is() -> None:
    """The real library, as installed here."""
    build = llama_build.probe()
    assert isinstance(build, LlamaBuild)
    assert " = 1" in build.system_info


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("raise OSError('libcuda.so.1: cannot open')", "libcuda.so.1"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os; os._exit(0)", "cannot be read"),
    ],
)
def test_library_that_breaks_is_a_finding(
    module: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it dies, whoever asks lives on and learns why."""
    (tmp_path / "llama_cpp.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    build = llama_build.probe()
    assert isinstance(build, BrokenBuild)
    assert why in build.why


def test_back_end_is_called_cuda_only_where_it_is() -> None:
    """Other GPU back ends of llama.cpp are named as what they are not."""
    assert LlamaBuild("1", True, "CUDA : ARCHS = 870 | CPU : NEON = 1").back_end == "CUDA"
    assert LlamaBuild("1", True, "Vulkan : X = 1").back_end == "GPU (not CUDA)"
    assert LlamaBuild("1", False, "CUDA : ARCHS = 870").back_end == "CPU"
