"""A wheel of llama.cpp that another machine has built, given to scripts/run and install.sh."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

TREE = Path(__file__).parents[2]
TAKE = '. "$root/scripts/lib/environment.sh"; adopt_wheel "$1" 0.3.36 key; cached_wheel key'


def taken(tmp_path: Path, *names: str) -> str:
    """The file that is installed then; empty where llama.cpp is compiled."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    variables = {"root": str(TREE), "venv": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-c", TAKE, "bash", str(folder)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    return Path(done.stdout.strip()).name


def test_one_of_this_version_for_this_processor(tmp_path: Path) -> None:
    name = f"llama_cpp_python-0.3.36-1cuda12sm87-py3-none-manylinux_2_35_{platform.machine()}.whl"
    others = ("llama_cpp_python-0.3.36-py3-none-linux_riscv64.whl", "numpy-2.2.6-py3-none-any.whl")
    assert taken(tmp_path, *others, name) == name


def test_none_for_another_processor_or_of_another_version(tmp_path: Path) -> None:
    older = f"llama_cpp_python-0.3.35-py3-none-linux_{platform.machine()}.whl"
    assert taken(tmp_path, older, "llama_cpp_python-0.3.36-py3-none-linux_riscv64.whl") == ""
