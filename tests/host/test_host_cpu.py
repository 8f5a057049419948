from pathlib import Path

from edge.host import cpu

MACHINES = Path(__file__).parent / "machines"


def test_hyper_threads_of_a_core_count_once() -> None:
    """Four processors on two cores are two."""
    assert cpu.usable_cores(MACHINES / "xeon") == 2


def test_quota_of_a_group_above_ours_is_rounded_down() -> None:
    """Four cores under a slice with 350 % leave three."""
    assert cpu.quota_cpus(MACHINES / "orin") == 3.5
    assert cpu.usable_cores(MACHINES / "orin") == 3


def test_container_without_a_namespace_finds_its_quota() -> None:
    """The group's host name is not a folder below the mount, which shows the group itself."""
    assert cpu.quota_cpus(MACHINES / "container") == 2.5
    assert cpu.usable_cores(MACHINES / "container") == 2


def test_affinity_limits_the_cores(tmp_path: Path) -> None:
    """Only processors in the mask count, in any order of the kernel's list format."""
    _write(tmp_path / "proc/self/status", "Cpus_allowed_list:\t0,4-6\n")
    assert cpu.usable_cores(tmp_path) == 4


def test_quota_below_one_processor_leaves_one_core(tmp_path: Path) -> None:
    """A process always has something to run on."""
    _write(tmp_path / "proc/self/status", "Cpus_allowed_list:\t0-1\n")
    _write(tmp_path / "proc/self/cgroup", "0::/\n")
    _write(tmp_path / "proc/self/mountinfo", "1 0 0:1 / /cg rw - cgroup2 cgroup2 rw\n")
    _write(tmp_path / "cg/cpu.max", "50000 100000\n")
    assert cpu.usable_cores(tmp_path) == 1


def test_unreadable_machine_is_unknown(tmp_path: Path) -> None:
    """Nothing is guessed about the processor, and the process still has its own affinity."""
    assert cpu.model(tmp_path) is None
    assert cpu.features(tmp_path) is None
    assert cpu.quota_cpus(tmp_path) is None
    assert cpu.usable_cores(tmp_path) >= 1


def test_x86_has_name_and_flags() -> None:
    """Instruction sets go by the names of /proc/cpuinfo."""
    assert cpu.model(MACHINES / "xeon") == "Intel(R) Xeon(R) Silver 4410Y"
    assert {"avx2", "avx512_vnni"} <= (cpu.features(MACHINES / "xeon") or set())


def test_arm_is_named_by_its_numbers() -> None:
    """ARM kernels print no name, and the features under another key."""
    assert cpu.model(MACHINES / "orin") == "ARM designer 0x41 part 0xd42"
    features = cpu.features(MACHINES / "orin") or set()
    assert "asimddp" in features
    assert "i8mm" not in features


def test_feature_of_some_processors_only_is_not_one(tmp_path: Path) -> None:
    """A thread may run on any of them."""
    _write(tmp_path / "proc/cpuinfo", "Features\t: fp asimddp\n\nFeatures\t: fp\n")
    assert cpu.features(tmp_path) == {"fp"}


def test_this_machine_can_be_read() -> None:
    """The real files have the form that is expected of them."""
    assert cpu.usable_cores() >= 1
    assert cpu.features()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
