"""Temperatures and trip points from a tree of the kernel's files."""

from __future__ import annotations

from pathlib import Path

from edge.host import thermal
from edge.host.thermal import Zone


def zone(root: Path, number: int, **files: str) -> None:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content + "\n")


def test_zones(tmp_path: Path) -> None:
    """In degrees by name; one that cannot be read or is off is unknown, and never cold."""
    zone(tmp_path, 0, type="cpu-thermal", temp="48500")
    zone(tmp_path, 1, type="gpu-thermal", temp="")
    zone(tmp_path, 2, type="board", temp="-4000")
    zone(tmp_path, 3, type="cv0-thermal", temp="-256000")
    zone(tmp_path, 10, type="cpu-thermal", temp="40000")
    found = thermal.zones(tmp_path)
    assert found is not None
    assert {name: one.celsius for name, one in found.items()} == {
        "cpu-thermal": 48.5,
        "gpu-thermal": None,
        "board": -4.0,
        "cv0-thermal": None,
        "cpu-thermal (thermal_zone10)": 40.0,
    }


def test_no_zones(tmp_path: Path) -> None:
    """A machine without any says nothing, and not that all is cool."""
    assert thermal.zones(tmp_path) is None


def test_trip_point_that_only_tells_is_not_where_it_throttles(tmp_path: Path) -> None:
    """At 70 °C Orin's kernel says that the surface is hot; clocks go down from 99 °C on."""
    zone(
        *(tmp_path, 0),
        type="cpu-thermal",
        temp="75000",
        trip_point_0_type="passive",
        trip_point_0_temp="70000",
        cdev0_trip_point="0",
        cdev0__type="hot-surface-alert",
        trip_point_1_type="passive",
        trip_point_1_temp="99000",
        cdev1_trip_point="1",
        cdev1__type="cpufreq-cpu0",
    )
    assert thermal.zones(tmp_path) == {"cpu-thermal": Zone(75.0, 99.0, None, enforced=True)}


def test_point_that_nothing_is_bound_to_is_shown_and_not_enforced(tmp_path: Path) -> None:
    """Firmware of laptops names points of single sensors that the kernel does nothing about."""
    point = {"trip_point_0_type": "passive", "trip_point_0_temp": "55000"}
    zone(tmp_path, 0, type="SEN1", temp="60000", **point)
    assert thermal.zones(tmp_path) == {"SEN1": Zone(60.0, 55.0, None, enforced=False)}


def test_trip_point_that_is_not_set_is_none(tmp_path: Path) -> None:
    """PCs write -274 °C there; and without a word on what it sets to work it is believed."""
    points = {"trip_point_0_type": "passive", "trip_point_0_temp": "-274000"}
    zone(tmp_path, 0, type="x86_pkg_temp", temp="50000", **points)
    points = {"trip_point_0_type": "passive", "trip_point_0_temp": "95000"}
    zone(tmp_path, 1, type="acpitz", temp="50000", **points)
    found = thermal.zones(tmp_path) or {}
    assert found["x86_pkg_temp"].throttles_at is None
    assert found["acpitz"].throttles_at == 95.0


def test_hottest_is_the_nearest_to_its_own_limit() -> None:
    """A disk at 75 °C may be worse off than a processor at 85."""
    zones = {"cpu": Zone(85.0, 100.0), "nvme": Zone(75.0, 80.0), "board": Zone(90.0)}
    assert thermal.hottest(zones) == ("nvme", 75.0)
    assert thermal.hottest({"a": Zone(40.0), "b": Zone(50.0)}) == ("b", 50.0)
    assert thermal.hottest({"a": Zone(None, 99.0)}) is None
