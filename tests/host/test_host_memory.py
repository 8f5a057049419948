import shutil
from pathlib import Path

from edge.host import memory

MACHINES = Path(__file__).parent / "machines"
GIB = 1 << 30


def test_group_limit_counts_without_idle_page_cache() -> None:
    """16 GiB allowed, 9 in use, 6 of which the kernel would give back: 13 are left."""
    assert memory.available_bytes(MACHINES / "orin") == 13 * GIB
    assert memory.cgroup_limit_bytes(MACHINES / "orin") == 16 * GIB


def test_no_limit_in_version_1_is_the_machine() -> None:
    """The huge number that stands for no limit is not one."""
    assert memory.available_bytes(MACHINES / "xeon") == 12 * GIB
    assert memory.cgroup_limit_bytes(MACHINES / "xeon") is None


def test_container_has_what_its_group_leaves() -> None:
    """2 GiB allowed, 1 in use, a quarter of that idle page cache."""
    assert memory.available_bytes(MACHINES / "container") == 2 * GIB - GIB + GIB // 4


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    """Systemd's MemoryHigh= throttles long before MemoryMax= kills."""
    orin = _copy("orin", tmp_path)
    (orin / "sys/fs/cgroup/system.slice/edge.service/memory.high").write_text(f"{4 * GIB}\n")
    assert memory.cgroup_limit_bytes(orin) == 4 * GIB
    assert memory.available_bytes(orin) == GIB


def test_limit_with_unknown_usage_is_unknown(tmp_path: Path) -> None:
    """Half an answer would be a guess."""
    orin = _copy("orin", tmp_path)
    (orin / "sys/fs/cgroup/system.slice/edge.service/memory.current").unlink()
    assert memory.available_bytes(orin) is None


def test_unreadable_machine_is_unknown(tmp_path: Path) -> None:
    """No /proc, no figures."""
    assert memory.total_bytes(tmp_path) is None
    assert memory.available_bytes(tmp_path) is None
    assert memory.cgroup_limit_bytes(tmp_path) is None


def test_this_machine_can_be_read() -> None:
    """The real files have the form that is expected of them."""
    total, available = memory.total_bytes(), memory.available_bytes()
    assert total is not None
    assert available is not None
    assert 0 < available <= total


def _copy(machine: str, to: Path) -> Path:
    return Path(shutil.copytree(MACHINES / machine, to / machine))
