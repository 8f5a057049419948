"""Machines out of one text file each: tests/host/trees/*.yaml laid out as the kernel's files.

A path's value is the file's content, with a newline behind it unless it ends in NUL; a mapping is
a folder; null is a sensor that cannot be read (a pipe, from which nothing ever comes, so that
whoever does not guard against that hangs the test); a text that begins with `#!` is a program.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

TREES = Path(__file__).parent / "host" / "trees"
NAMES = sorted(tree.stem for tree in TREES.glob("*.yaml"))


def lay_out(name: str, root: Path) -> Path:
    """Writes the tree under `root`, which it gives back."""
    for path, content in yaml.safe_load((TREES / f"{name}.yaml").read_text()).items():
        _write(root / path.lstrip("/"), content)
    return root


def _write(path: Path, content: Any) -> None:
    if isinstance(content, dict):
        for name, inner in content.items():
            _write(path / str(name), inner)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        os.mkfifo(path)
        return
    text = str(content)
    path.write_text(text if text.endswith(("\0", "\n")) else text + "\n")
    if text.startswith("#!"):
        path.chmod(0o755)


def set_temperature(root: Path, celsius: float, zone: int = 0) -> None:
    """Of a tree that is laid out and may be read now: a reader sees the old or the new one."""
    file = root / f"sys/class/thermal/thermal_zone{zone}/temp"
    written = file.with_suffix(".new")
    written.write_text(f"{celsius * 1000:.0f}\n")
    written.replace(file)
