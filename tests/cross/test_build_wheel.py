"""scripts/build-wheel, as far as it goes without compiling llama.cpp."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
CROSS = SCRIPTS / "lib" / "cross"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "for which machine?"),
        (["--target"], "--target needs a value"),
        (["--target", "riscv"], "there is no target 'riscv'"),
        (["--target", "arm64", "--cuda", "12"], "--cuda and --cuda-arch are for --target jetson"),
        (["--target", "jetson", "--cuda", "11"], "--cuda is 12 (JetPack 6) or 13 (JetPack 7)"),
        (["--target", "jetson", "--cuda-arch", "sm_87"], "--cuda-arch is a number such as 87"),
        (["--target", "arm64", "wheels"], "what is 'wheels'?"),
        (["--target", "arm64", "--clean"], "there is no option '--clean'"),
    ],
)
def test_wrong_arguments_do_nothing(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = subprocess.run(
        [str(SCRIPTS / "build-wheel"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"Error: {complaint}")
    assert done.stderr.splitlines()[1].startswith("Try: ")
    assert list(tmp_path.iterdir()) == []


def shell(script: str, **settings: str) -> subprocess.CompletedProcess[str]:
    head = f"set -euo pipefail; root={SCRIPTS.parent}; "
    head += "; ".join(f"{name}='{value}'" for name, value in settings.items())
    parts = '\n. "$root/scripts/lib/cross/build.sh"; . "$root/scripts/lib/cross/cuda.sh"\n'
    return subprocess.run(["bash", "-c", head + parts + script], capture_output=True, text=True)


def test_settings_are_those_of_every_build_and_the_boards() -> None:
    """What holds for the machine's own llama.cpp holds for a board's."""
    plain = shell("board_settings", board="arm64", cuda="", sm="").stdout.split()
    own = shell("llama_build_settings; echo $llama_cmake_args", board="", cuda="").stdout.split()
    assert {"-DGGML_LLAMAFILE=OFF", "-DLLAVA_BUILD=OFF"} <= set(plain) & set(own)
    assert "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16" in plain
    emulated = shell("board_settings", board="qemu", cuda="", sm="").stdout.split()
    assert set(emulated) ^ set(plain) == {
        "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16",
        "-DGGML_CPU_ARM_ARCH=armv8-a+nosimd",
    }
    jetson = shell("board_settings", board="jetson", cuda="12", sm="72").stdout.split()
    assert jetson[: len(plain)] == plain
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=72-real"} <= set(jetson)


def test_gpu_that_nvcc_does_not_know_is_refused_first(tmp_path: Path) -> None:
    """Before anything is compiled; with what there would be."""
    nvcc = tmp_path / "cuda12" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\nprintf 'sm_72\\nsm_87\\n'\n")
    nvcc.chmod(0o755)
    script = f"cross={tmp_path}; ensure_cuda_toolkit; echo $toolkit"
    assert shell(script, cuda="12", sm="87").stdout.strip() == str(tmp_path / "cuda12")
    done = shell(script, cuda="12", sm="101")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: CUDA 12 makes no code for sm_101",
        "Try: --cuda-arch with one of: 72 87",
    ]


def test_recipe_that_did_not_change_keeps_its_time(tmp_path: Path) -> None:
    """Otherwise an interrupted build would begin by configuring everything anew."""
    (tmp_path / "recipe").mkdir()
    renew = f"work={tmp_path} cuda=; renew_recipe"
    assert shell(renew).returncode == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "recipe").iterdir()}
    assert {"aarch64.cmake", "llama-for-boards.cmake", "llama-without-common.cmake"} <= set(before)
    (tmp_path / "recipe" / "aarch64.cmake").write_text("# of an older commit")
    assert shell(renew).returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "recipe").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"aarch64.cmake"}


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_back_ends_are_looked_for_beside_the_library(tmp_path: Path) -> None:
    """By whoever opens libllama.so, before the first call: Python has no main() to do it in."""
    (tmp_path / "ggml-backend.h").write_text(
        'extern "C" void ggml_backend_load_all_from_path(const char *);\n'
    )
    recorder = tmp_path / "recorder.cpp"
    recorder.write_text(
        "#include <string>\nstatic std::string asked;\n"
        'extern "C" void ggml_backend_load_all_from_path(const char *path) { asked = path; }\n'
        'extern "C" const char *asked_for() { return asked.c_str(); }\n'
    )
    (tmp_path / "lib").mkdir()
    # The recorder in a library of its own, as ggml is: it is ready before libllama.so is.
    ggml, llama = tmp_path / "lib" / "libggml.so", tmp_path / "lib" / "libllama.so"
    options = ["c++", "-shared", "-fPIC", f"-I{tmp_path}"]
    subprocess.run([*options, recorder, "-o", ggml], check=True)
    source = CROSS / "llama-loads-back-ends.cpp"
    subprocess.run([*options, source, ggml, "-Wl,-rpath,$ORIGIN", "-o", llama], check=True)
    ctypes.CDLL(str(llama))
    recorded = ctypes.CDLL(str(ggml)).asked_for
    recorded.restype = ctypes.c_char_p
    assert recorded().decode() == str(tmp_path / "lib")
