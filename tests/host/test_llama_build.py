from pathlib import Path

import pytest

from edge.host import llama_build
from edge.host.llama_build import BrokenBuild, LlamaBuild


def test_installed_build_tells_what_it_is() -> None:
    """The real library, as installed here."""
    build = llama_build.probe()
    assert isinstance(build, LlamaBuild)
    assert " = 1" in build.system_info
    assert "CPU" in build.back_ends
    cpu = [device for device in build.devices if device.kind == "cpu"]
    assert len(cpu) == 1
    assert cpu[0].free > 0
    assert build.gpu_offload == bool(build.gpus)


def test_what_it_wrote_when_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA's back end does that finds no device: the real library, and one line more."""
    said = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
    lines = f"import sys; print({said!r}, 'found 0 devices', sep='\\n', file=sys.stderr)"
    (tmp_path / "sitecustomize.py").write_text(lines)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    build = llama_build.probe()
    assert isinstance(build, LlamaBuild)
    assert build.said == said


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
