"""Each recorded machine, as it is read: what it is, feels, draws and is set to."""

from __future__ import annotations

from pathlib import Path

import pytest
import recorded_trees
from recorded_trees import lay_out

from edge.host import clocks, identity, rails, smi, storage, swap, thermal, throttling
from edge.host.power import PowerMeter

WHAT = {
    "agx-orin-jetpack5": ("Jetson AGX Orin", "p3701-0004", "5.1.2", "35.4.1", "11.4.19"),
    "agx-orin-jetpack6": (
        *("NVIDIA Jetson AGX Orin Developer Kit", "p3701-0005"),
        *("6.2", "36.4.3", "12.6.11"),
    ),
    "orin-nx-jetpack6": (
        *("NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super", "p3767-0000"),
        *("6.2.1", "36.4.7", "12.6.11"),
    ),
    "orin-nano-jetpack6": (
        *("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "p3767-0005"),
        *("6.2.1", "36.4.4", None),
    ),
    "pc": ("Dell Inc. Precision 3660", None, None, None, None),
    "pc-service-user": ("ASRock", None, None, None, None),
    "container": (None, None, None, None, None),
}
SETTINGS = {
    "agx-orin-jetpack5": ("MAXN", "MAXN", True, 3_199_000_000, 0.872),
    "agx-orin-jetpack6": ("30W", "MAXN", False, 2_133_000_000, 0.043),
    "orin-nx-jetpack6": ("MAXN_SUPER", "MAXN_SUPER", False, None, 0.99),
    "orin-nano-jetpack6": ("15W", "MAXN_SUPER", False, None, 0.0),
    "pc": (None, None, None, None, None),
    "pc-service-user": (None, None, None, None, None),
    "container": (None, None, None, None, None),
}
HEAT = {
    "agx-orin-jetpack5": ("CPU-therm", 61.5, 99.0, 104.5, ["CV0-therm"]),
    "agx-orin-jetpack6": (
        *("cpu-thermal", 51.25, 99.0, 104.5),
        ["cv0-thermal", "cv1-thermal", "cv2-thermal"],
    ),
    "orin-nx-jetpack6": ("gpu-thermal", 99.281, 99.0, 104.5, ["cv0-thermal"]),
    "orin-nano-jetpack6": ("cpu-thermal", 43.531, 99.0, 104.5, ["cv0-thermal", "tj-thermal"]),
    "pc": ("nvme Composite", 38.85, 81.85, 84.85, []),
    "pc-service-user": ("k10temp Tctl", 47.125, None, None, []),
}
WATTS = {
    "agx-orin-jetpack5": (20.87, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]),
    "agx-orin-jetpack6": (14.33, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]),
    "orin-nx-jetpack6": (25.92, ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]),
    "orin-nano-jetpack6": (5.54, ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]),
}
DISKS = {
    "agx-orin-jetpack5": "eMMC",
    "agx-orin-jetpack6": "NVMe",
    "orin-nx-jetpack6": "NVMe",
    "orin-nano-jetpack6": "SD card",
    "pc": "NVMe",
    "pc-service-user": "hard disk",
    "container": None,
}


def test_all_trees_are_here() -> None:
    """A tree without a row would not be looked at."""
    assert recorded_trees.NAMES == sorted(WHAT) == sorted(SETTINGS) == sorted(DISKS)


@pytest.mark.parametrize("name", WHAT)
def test_what_it_is(name: str, tmp_path: Path) -> None:
    """Board, module, JetPack, L4T and CUDA; what is not written there is unknown."""
    found = identity.read(lay_out(name, tmp_path))
    read = (found.board, found.module, found.jetpack, found.l4t, found.cuda)
    assert read == WHAT[name]
    assert found.jetson == ("orin" in name)


@pytest.mark.parametrize("name", SETTINGS)
def test_how_it_is_set(name: str, tmp_path: Path) -> None:
    """Power mode and the strongest there is, clocks that are held, memory clock, GPU load."""
    root = lay_out(name, tmp_path)
    found, run = identity.read(root), clocks.read(root)
    assert (
        found.mode and found.mode.name,
        found.strongest_mode and found.strongest_mode.name,
        run.held,
        run.memory_hertz,
        run.gpu and run.gpu.load,
    ) == SETTINGS[name]


@pytest.mark.parametrize("name", HEAT)
def test_heat(name: str, tmp_path: Path) -> None:
    """The zone nearest to its limit with its trip points, and those that cannot be read."""
    zones = thermal.zones(lay_out(name, tmp_path))
    assert zones is not None
    near = thermal.hottest(zones)
    assert near is not None
    zone = zones[near[0]]
    blind = [one for one, there in zones.items() if there.celsius is None]
    assert (*near, zone.throttles_at, zone.shuts_down_at, blind) == HEAT[name]


@pytest.mark.parametrize("name", WATTS)
def test_rails(name: str, tmp_path: Path) -> None:
    """The module as a whole: its input, or its rails without those that others feed."""
    found = rails.rails(lay_out(name, tmp_path))
    assert found is not None
    total = rails.total(found)
    assert total is not None
    assert (round(total, 2), list(found)) == WATTS[name]


def test_rail_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    """And so is a sum that it belongs to; but not the input, which is measured by itself."""
    found = rails.rails(lay_out("orin-nano-jetpack6", tmp_path))
    assert found is not None
    assert found["VDD_CPU_GPU_CV"] is None
    assert rails.total(found) == found["VDD_IN"]
    assert rails.total({"VDD_GPU_SOC": 5.0, "VIN_SYS_5V0": None}) is None


@pytest.mark.parametrize("name", DISKS)
def test_disk(name: str, tmp_path: Path) -> None:
    """What the models are on, by the mount that is nearest to them."""
    disk = storage.disk_of(Path("/var/lib/edge"), lay_out(name, tmp_path))
    assert disk is not None
    assert disk.kind == DISKS[name]


def test_disk_whose_number_may_not_be_followed(tmp_path: Path) -> None:
    """As for a user in a container: the name that it is mounted by has to do."""
    (tmp_path / "proc/self").mkdir(parents=True)
    mounted = "31 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(mounted)
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / "sys/dev/block/259:1").write_text("no link")
    assert storage.disk_of(Path("/models"), tmp_path) == storage.Disk("/dev/nvme0n1p1", "NVMe")


def test_disk_behind_another_name(tmp_path: Path) -> None:
    """`/dev/root` by its number; and what is encrypted is what it lies on."""
    mounts = "26 1 259:1 / / rw - ext4 /dev/root rw\n27 26 253:0 / /data rw - ext4 /dev/mapper/x rw"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    assert storage.disk_of(Path("/models"), tmp_path) == storage.Disk("/dev/root", None)
    for number, path in (("259:1", "nvme0n1/nvme0n1p1"), ("253:0", "dm-0")):
        (tmp_path / "sys/devices" / path).mkdir(parents=True)
        (tmp_path / "sys/dev/block").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/dev/block" / number).symlink_to(tmp_path / "sys/devices" / path)
    (tmp_path / "sys/block/dm-0/slaves/sda2").mkdir(parents=True)
    (tmp_path / "sys/block/sda/queue").mkdir(parents=True)
    (tmp_path / "sys/block/sda/queue/rotational").write_text("0\n")
    assert storage.disk_of(Path("/models"), tmp_path) == storage.Disk("/dev/root", "NVMe")
    assert storage.disk_of(Path("/data/edge"), tmp_path) == storage.Disk("/dev/mapper/x", "SSD")


def test_throttling(tmp_path: Path) -> None:
    """Only what takes clocks down, not the fan and not the notice; unknown is not cool."""
    hot = lay_out("orin-nx-jetpack6", tmp_path / "hot")
    assert throttling.active(hot) == ["devfreq-17000000.gpu", "gpu-throttle-alert"]
    cool = lay_out("agx-orin-jetpack6", tmp_path / "cool")
    assert throttling.active(cool) == []
    assert throttling.active(lay_out("container", tmp_path / "none")) is None


def test_over_current(tmp_path: Path) -> None:
    """NVIDIA's counters by what they mean, those that are there."""
    weak = throttling.over_current(lay_out("agx-orin-jetpack5", tmp_path / "weak"))
    assert weak is not None
    assert weak["under-voltage"] == 4
    assert throttling.over_current(lay_out("orin-nano-jetpack6", tmp_path / "none")) is None


def test_swap(tmp_path: Path) -> None:
    """zram is told from a disk, none from unknown."""
    zram = swap.swap(lay_out("orin-nx-jetpack6", tmp_path / "nx"))
    assert zram is not None
    assert (zram.total, zram.used, zram.compressed) == (2_045_706_240, 1_661_992_960, True)
    file = swap.swap(lay_out("agx-orin-jetpack5", tmp_path / "agx"))
    assert file is not None
    assert (file.compressed, file.devices) == (False, ("/swapfile",))
    none = swap.swap(lay_out("orin-nano-jetpack6", tmp_path / "nano"))
    assert none is not None
    assert (none.total, none.compressed) == (0, False)
    assert swap.swap(lay_out("container", tmp_path / "container")) is None


def test_card_of_a_pc(tmp_path: Path) -> None:
    """As nvidia-smi tells it; a program that fails, or says nothing of use, is unknown."""
    root = lay_out("pc", tmp_path)
    (card,) = smi.cards(root) or []
    assert (card.name, card.driver, card.celsius) == ("NVIDIA RTX A2000 12GB", "550.120", 41.0)
    assert (card.watts, card.load) == (17.32, 0.03)
    assert smi.cards(lay_out("agx-orin-jetpack6", tmp_path / "board")) is None
    program = root / "usr/bin/nvidia-smi"
    program.write_text("#!/bin/sh\necho 'T1000, [N/A], [N/A], [N/A], [N/A]'\n")
    (card,) = smi.cards(root) or []
    assert (card.driver, card.celsius, card.watts, card.load) == (None, None, None, None)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert smi.cards(root) is None


def test_counters_that_only_root_may_read(tmp_path: Path) -> None:
    """There is a package, and what it draws is unknown, however often it is asked."""
    meter = PowerMeter(lay_out("pc-service-user", tmp_path))
    for _ in range(2):
        power = meter.sample()
        assert power is not None
        assert (power.rails, power.total, power.joules) == ({"package-0": None}, None, None)
