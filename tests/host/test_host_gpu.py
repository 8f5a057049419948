from pathlib import Path

from edge.host import board, gpu

MACHINES = Path(__file__).parent / "machines"


def test_jetson_is_known_by_its_device_tree(tmp_path: Path) -> None:
    """The model string ends in a NUL, and one board in two writes it differently."""
    assert board.is_jetson(MACHINES / "orin")
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Jetson-AGX\0")
    assert board.is_jetson(tmp_path)


def test_jetson_on_a_foreign_carrier_is_known_by_its_release(tmp_path: Path) -> None:
    """The carrier's maker put another name into the device tree."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36\n")
    assert board.is_jetson(tmp_path)


def test_card_is_known_by_its_device_or_driver(tmp_path: Path) -> None:
    """One of the two is enough."""
    assert gpu.has_nvidia_gpu(MACHINES / "container")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    assert gpu.has_nvidia_gpu(tmp_path)


def test_ordinary_machine_has_neither() -> None:
    """No false alarm on a PC."""
    assert not board.is_jetson(MACHINES / "xeon")
    assert not gpu.has_nvidia_gpu(MACHINES / "xeon")
