"""scripts/make-offline-bundle for another machine: what it reads of it, and what it refuses before
it fetches anything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
JETPACK = ["--machine", "aarch64", "--python", "3.10", "--system", "ubuntu 22.04"]


def make(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [str(SCRIPTS / "make-offline-bundle"), *options, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """As NVIDIA's sample is, where it is looked at."""
    root = tmp_path / "rootfs"
    for name in ("etc", "usr/bin", "var/lib/dpkg"):
        (root / name).mkdir(parents=True)
    (root / "etc/os-release").write_text('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\n')
    (root / "usr/bin/python3").symlink_to("python3.10")
    status = "Package: bash\nArchitecture: amd64\n\nPackage: dpkg\nStatus: install ok installed\n"
    (root / "var/lib/dpkg/status").write_text(f"{status}Architecture: arm64\nVersion: 1\n\n")
    return root


def test_what_a_root_file_system_says(rootfs: Path) -> None:
    script = f"""
        set -euo pipefail
        fail() {{ echo "$1"; exit 1; }}
        . {SCRIPTS}/lib/bundle-foreign.sh
        rootfs={rootfs}
        describe_rootfs
        echo "$system|$architecture|$machine|$python"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "ubuntu 22.04|arm64|aarch64|3.10\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--machine", "aarch64"], "--machine, --python and --system belong together"),
        ([*JETPACK], "where is llama.cpp for that machine?"),
        (["--wheels", "."], "--wheels is for another machine: which?"),
        (["--rootfs", "/nowhere"], "/nowhere is no root file system"),
        (
            ["--machine", "riscv64", *JETPACK[2:], "--wheels", "."],
            "no wheels for the processor 'riscv64'",
        ),
        (["--nonsense"], "does not know '--nonsense'"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, options: list[str], complaint: str) -> None:
    done = make(tmp_path, *options)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Try: " in done.stderr


@pytest.mark.parametrize("name", ["0.0.1-py3-none-linux_aarch64", "VERSION-py3-none-linux_x86_64"])
def test_llama_of_another_version_or_processor(tmp_path: Path, name: str) -> None:
    """Nothing is fetched before it is there."""
    pins = (SCRIPTS.parent / "constraints.txt").read_text()
    version = re.search(r"^llama-cpp-python==(\S+)", pins, re.M)
    assert version
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / f"llama_cpp_python-{name.replace('VERSION', version[1])}.whl").touch()
    done = make(tmp_path, *JETPACK, "--wheels", str(wheels))
    assert done.returncode == 1
    assert f"no llama-cpp-python {version[1]} for aarch64 in {wheels}" in done.stderr
    assert not list(tmp_path.glob("*.tar*"))
