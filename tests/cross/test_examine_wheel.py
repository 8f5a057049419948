"""What scripts/build-wheel finds out about the libraries in a wheel, on real ones, made here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import examine
import pytest
from examine import Library, complaints, read_library

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

# What cuobjdump 12.4 says of a program with code for an Orin.
LISTED = "ELF file    1: norm.1.sm_87.cubin\nELF file    2: rope.2.sm_87.cubin\n"


class Libraries:
    """Compiles libraries into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, name: str, code: str, *options: str) -> Path:
        path = self.folder / name
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
        command += [f"-L{self.folder}", "-Wl,--no-as-needed", f"-Wl,-soname,{name}", *options]
        subprocess.run(command, input=code, text=True, check=True)
        return path

    def for_board(self, name: str, code: str, *options: str) -> Library:
        """Read as if it had been made for the board's processor."""
        return read_library(self.make(name, code, *options))._replace(machine=examine.MACHINE)


@pytest.fixture
def libraries(tmp_path: Path) -> Libraries:
    return Libraries(tmp_path)


LLAMA = Library("libllama.so", 1, examine.MACHINE, ("libc.so.6",), ("$ORIGIN",), {"GLIBC": (2, 34)})


def test_good_wheel_has_no_complaints(libraries: Libraries) -> None:
    """Needs what every board has, and what lies beside it."""
    code = '#include <stdio.h>\nvoid compute(void) { puts(""); }'
    base = libraries.for_board("libggml-base.so", code)
    beside = libraries.for_board(
        "libggml.so", "void compute(void); void f(void) { compute(); }", "-l:libggml-base.so"
    )
    assert base.needed == ("libc.so.6",)
    assert base.versions["GLIBC"] >= (2, 2)
    assert beside.needed[0] == "libggml-base.so"
    assert complaints([LLAMA, base, beside]) == []


def test_library_of_this_machine_is_not_for_the_board(libraries: Libraries) -> None:
    library = read_library(libraries.make("libggml.so", ""))
    if library.machine == examine.MACHINE:
        pytest.skip("this machine is like the board")
    assert complaints([LLAMA, library])[0].startswith("libggml.so is for ")


def test_cuda_of_the_other_version_is_missing(libraries: Libraries) -> None:
    """JetPack 6 has libcudart.so.12 and JetPack 7 has libcudart.so.13; the name decides."""
    libraries.make("libcudart.so.12", "")
    library = libraries.for_board("libggml-cuda.so", "", "-l:libcudart.so.12")
    assert complaints([LLAMA, library], cuda="12") == []
    missing = ["libggml-cuda.so needs libcudart.so.12, which the board does not have"]
    assert complaints([LLAMA, library], cuda="13") == missing
    assert complaints([LLAMA, library]) == missing


def test_driver_is_not_linked(libraries: Libraries) -> None:
    """With libcuda.so.1 the plug-in would not load in a container without the GPU."""
    libraries.make("libcuda.so.1", "")
    library = libraries.for_board("libggml-cuda.so", "", "-l:libcuda.so.1")
    assert complaints([LLAMA, library], cuda="12") == [
        "libggml-cuda.so needs libcuda.so.1, which the board does not have"
    ]


def test_nothing_of_nvidias_is_shipped() -> None:
    for name in ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libnvrtc.so.12"):
        assert complaints([LLAMA, LLAMA._replace(name=name)]) == [
            f"{name} is NVIDIA's, and the board has its own"
        ]


def test_each_library_is_there_once() -> None:
    """llama.cpp's own install step and the bindings' each bring all of them."""
    assert complaints([LLAMA, LLAMA]) == ["libllama.so is in the wheel more than once"]


def test_folders_of_the_building_machine_are_told(libraries: Libraries) -> None:
    kept = libraries.for_board("libggml.so", "", "-Wl,-rpath,$ORIGIN:/usr/local/cuda/lib64")
    assert complaints([LLAMA, kept]) == []
    left = libraries.for_board("libggml.so", "", "-Wl,-rpath,$ORIGIN:/home/builder/lib")
    assert complaints([LLAMA, left]) == ["libggml.so looks for libraries in /home/builder/lib"]


def test_newer_glibc_than_the_boards_is_told(libraries: Libraries, tmp_path: Path) -> None:
    """A libm with a symbol of 2.36, and one that asks for it."""
    versions = tmp_path / "versions"
    versions.write_text("GLIBC_2.35 { global: old; };\nGLIBC_2.36 { global: new; };\n")
    libraries.make(
        "libm.so.6", "void old(void) {} void new(void) {}", f"-Wl,--version-script,{versions}"
    )
    code = "void {0}(void); void f(void) {{ {0}(); }}"
    fits = libraries.for_board("libggml.so", code.format("old"), "-l:libm.so.6")
    assert complaints([LLAMA, fits]) == []
    newer = libraries.for_board("libggml.so", code.format("new"), "-l:libm.so.6")
    assert complaints([LLAMA, newer]) == [
        "libggml.so needs GLIBC_2.36, and the board has GLIBC_2.35"
    ]


def test_versions_that_a_library_gives_are_no_needs(libraries: Libraries, tmp_path: Path) -> None:
    versions = tmp_path / "versions"
    versions.write_text("GLIBC_2.99 { global: f; };\n")
    library = libraries.for_board(
        "libggml.so", "void f(void) {}", f"-Wl,--version-script,{versions}"
    )
    assert library.versions.get("GLIBC", ()) < (2, 99)


def test_code_for_another_gpu_is_told(libraries: Libraries, tmp_path: Path) -> None:
    cuobjdump = tmp_path / "cuobjdump"
    cuobjdump.write_text(f"#!/bin/sh\nprintf '%s' '{LISTED}'\n")
    cuobjdump.chmod(0o755)
    made = libraries.make("libggml-cuda.so", "")
    library = read_library(made, str(cuobjdump))._replace(machine=examine.MACHINE)
    assert library.gpus == {"sm_87"}
    assert complaints([LLAMA, library], "12", "sm_87") == []
    assert complaints([LLAMA, library], "12", "sm_72") == [
        "the GPU code is for sm_87, not for sm_72"
    ]
    assert complaints([LLAMA], "12", "sm_87") == ["the GPU code is for no GPU, not for sm_87"]


def test_command_ends_with_an_error(libraries: Libraries, tmp_path: Path) -> None:
    """A wheel without the library, and with one that is broken."""
    wheel = tmp_path / "llama_cpp_python-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(libraries.make("libggml.so", ""), "llama_cpp/lib/libggml.so")
    command = [sys.executable, examine.__file__, str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "WRONG: there is no libllama.so" in done.stdout.splitlines()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("llama_cpp/lib/libllama.so", "no library")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "readelf cannot read" in done.stderr
