"""What the libraries in a wheel ask of the board that it is for, and whether the board has that.

Looks with `readelf` and `cuobjdump`, neither of which runs anything, so the wheel may be for any
machine. Prints what it found; ends with 1 if the wheel would not load there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

MACHINE = "AArch64"

SYSTEM = frozenset(
    {
        *("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
        *("librt.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1"),
    }
)
"""What Ubuntu 22.04 and Debian 12 have. libcuda.so.1 is not for linking: the CUDA runtime opens it
where there is a driver."""

CUDA = ("libcudart.so.{}", "libcublas.so.{}")
"""What JetPack has of a CUDA version."""

NEWEST = {
    "GLIBC": (2, 35),
    "GLIBCXX": (3, 4, 30),
    "CXXABI": (1, 3, 13),
    "GCC": (12, 0, 0),
    "GOMP": (5, 1),
    "OMP": (5, 1, 1),
}
"""The versions of symbols that Ubuntu 22.04 has: glibc 2.35, and the libraries of GCC 12."""

PATHS = ("$ORIGIN", "/usr/local/cuda/lib64")
"""Where libraries may be looked for besides the system's folders."""

NVIDIA = re.compile(r"lib(cu(da|dart|blas|blasLt)|nv\w+)\b.*\.so")

Version = tuple[int, ...]


class Library(NamedTuple):
    """versions: the newest symbol version asked for, by its prefix. gpus: whose code is in it."""

    name: str
    size: int
    machine: str
    needed: tuple[str, ...]
    paths: tuple[str, ...]
    versions: dict[str, Version]
    gpus: frozenset[str] = frozenset()


def read_library(path: Path, cuobjdump: str | None = None) -> Library:
    told = _output("readelf", "--wide", "--file-header", "--dynamic", "--version-info", str(path))
    machine = re.search(r"^\s*Machine:\s+(.+)$", told, re.M)
    paths = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", told)
    return Library(
        name=path.name,
        size=path.stat().st_size,
        machine=machine[1] if machine else "unknown",
        needed=tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", told)),
        paths=tuple(place for line in paths for place in line.split(":")),
        versions=_versions(told),
        gpus=_gpus(path, cuobjdump) if cuobjdump and "cuda" in path.name else frozenset(),
    )


def _versions(told: str) -> dict[str, Version]:
    newest: dict[str, Version] = {}
    asked = re.search(r"^Version needs section.*?(?=^\S|\Z)", told, re.M | re.S)
    for prefix, numbers in re.findall(r"Name: ([A-Z]+)_([\d.]+)", asked[0] if asked else ""):
        version = tuple(int(number) for number in numbers.split("."))
        newest[prefix] = max(newest.get(prefix, ()), version)
    return newest


def _gpus(path: Path, cuobjdump: str) -> frozenset[str]:
    told = _output(cuobjdump, "--list-elf", str(path))
    return frozenset(re.findall(r"\.(sm_\w+)\.cubin", told))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"Error: {command[0]} cannot read {command[-1]}: {done.stderr.strip()}")
    return done.stdout


def complaints(
    libraries: list[Library], cuda: str | None = None, gpu: str | None = None
) -> list[str]:
    """What is wrong with them, for a board with that CUDA version and GPU."""
    there = SYSTEM | {library.name for library in libraries}
    there |= {name.format(cuda) for name in CUDA if cuda}
    found = [problem for library in libraries for problem in _complaints(library, there)]
    names = [library.name for library in libraries]
    if "libllama.so" not in names:
        found.append("there is no libllama.so")
    twice = sorted({name for name in names if names.count(name) > 1})
    found += [f"{name} is in the wheel more than once" for name in twice]
    code = {name for library in libraries for name in library.gpus}
    if gpu and code != {gpu}:
        found.append(f"the GPU code is for {', '.join(sorted(code)) or 'no GPU'}, not for {gpu}")
    return found


def _complaints(library: Library, there: frozenset[str] | set[str]) -> list[str]:
    name, found = library.name, []
    if NVIDIA.match(name):
        found.append(f"{name} is NVIDIA's, and the board has its own")
    if library.machine != MACHINE:
        found.append(f"{name} is for {library.machine}, not for {MACHINE}")
    found += [
        f"{name} needs {needed}, which the board does not have"
        for needed in library.needed
        if needed not in there
    ]
    found += [
        f"{name} looks for libraries in {path}" for path in library.paths if path not in PATHS
    ]
    found += [
        f"{name} needs {_symbol(prefix, version)}, and the board has {_symbol(prefix, newest)}"
        for prefix, version in library.versions.items()
        if version > (newest := NEWEST.get(prefix, ()))
    ]
    return found


def _symbol(prefix: str, version: Version) -> str:
    return f"{prefix}_{'.'.join(map(str, version))}" if version else f"no {prefix}"


def describe(library: Library) -> str:
    versions = " ".join(_symbol(*item) for item in sorted(library.versions.items()))
    lines = [f"{library.name}  {library.size / 1e6:.1f} MB, {library.machine}, at most {versions}"]
    lines.append(f"    needs {' '.join(library.needed)}")
    if library.gpus:
        lines.append(f"    has GPU code for {' '.join(sorted(library.gpus))}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cuda", help="the first number of the board's CUDA version")
    parser.add_argument("--sm", help="its GPU's number, such as 87")
    parser.add_argument("--cuobjdump", help="NVIDIA's program, to look for GPU code")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(options.wheel) as wheel:
            wheel.extractall(folder)
        paths = sorted(path for path in Path(folder).rglob("*.so*") if path.is_file())
        libraries = [read_library(path, options.cuobjdump) for path in paths]
    lines = [f"{options.wheel.name}  {options.wheel.stat().st_size / 1e6:.1f} MB"]
    lines += map(describe, libraries)
    found = complaints(libraries, options.cuda, options.sm and f"sm_{options.sm}")
    lines += [f"WRONG: {problem}" for problem in found] or ["The board has all that these need."]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
