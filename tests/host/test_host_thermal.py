"""Temperatures from a tree of the kernel's files."""

from __future__ import annotations

from pathlib import Path

from edge.host import thermal


def zone(root: Path, number: int, kind: str, temperature: str) -> None:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    (folder / "temp").write_text(temperature + "\n")


def test_zones(tmp_path: Path) -> None:
    """In degrees by name; one that cannot be read is left out, and never taken for cold."""
    zone(tmp_path, 0, "cpu-thermal", "48500")
    zone(tmp_path, 1, "gpu-thermal", "")
    zone(tmp_path, 2, "board", "-4000")
    assert thermal.zones(tmp_path) == {"cpu-thermal": 48.5, "board": -4.0}


def test_no_zones(tmp_path: Path) -> None:
    """A machine without any says nothing, and not that all is cool."""
    assert thermal.zones(tmp_path) is None
