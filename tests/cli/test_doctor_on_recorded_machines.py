"""`edge doctor` shown each recorded machine: the findings that it must have there, as a table."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import recorded_trees
from click.testing import Result
from fake_daemon import FakeDaemon
from recorded_trees import lay_out

from edge.cli import machine_checks
from edge.host.llama_build import LlamaBuild

Run = Callable[..., Result]

CPU_BUILD = LlamaBuild("0.3.36", False, "CPU : NEON = 1 | DOTPROD = 1 | ")
CUDA_BUILD = LlamaBuild("0.3.36", True, "CUDA : ARCHS = 870 | CPU : NEON = 1 | ")

CUDA_FIX = "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=87 -DGGML_CUDA_NO_VMM=ON"
Row = tuple[str, str, str]
"""Status, a part of the finding, a part of the fix (empty: none)."""

TABLE: dict[str, dict[str, Row]] = {
    "agx-orin-jetpack6": {
        "board": ("ok", "Jetson AGX Orin Developer Kit (p3701-0005), JetPack 6.2, L4T 36.4.3", ""),
        "power mode": ("ok", "30W, clocks as the load asks; below the strongest, MAXN", "-m 0"),
        "heat": ("ok", "unknown: cv0-thermal, cv1-thermal, cv2-thermal", ""),
        "power": ("ok", "14.3 W: VDD_GPU_SOC 6.3 W", ""),
        "cpu": ("ok", "8 usable cores, dotprod", ""),
        "llama.cpp": ("fail", "CPU only, though there is an NVIDIA GPU", CUDA_FIX),
        "swap": ("ok", "0 B of 32.9 GB used, zram", ""),
        "disk kind": ("ok", "/dev/nvme0n1p1, NVMe", ""),
    },
    "agx-orin-jetpack5": {
        "board": ("ok", "Jetson AGX Orin (p3701-0004), JetPack 5.1.2, L4T 35.4.1, CUDA 11.4", ""),
        "power mode": ("ok", "MAXN, clocks held at their highest", ""),
        "heat": ("warn", "unknown: CV0-therm; under-voltage 4 times since boot", "supply"),
        "power": ("ok", "20.9 W", ""),
        "llama.cpp": ("fail", "CPU only", CUDA_FIX),
        "swap": ("warn", "3.2 GB of 8.6 GB used, /swapfile", "smaller model"),
        "disk kind": ("warn", "/dev/mmcblk0p1, eMMC", "NVMe"),
    },
    "orin-nx-jetpack6": {
        "board": ("warn", "this one refuses large pieces of GPU memory", "upgrade to L4T 36.5"),
        "power mode": ("ok", "MAXN_SUPER", ""),
        "heat": ("warn", "slowed down now by devfreq-17000000.gpu, gpu-throttle-alert", "fan"),
        "power": ("ok", "25.9 W: VDD_IN 25.9 W", ""),
        "llama.cpp": ("fail", "CPU only", CUDA_FIX),
        "swap": ("warn", "1.7 GB of 2.0 GB used, zram, which is memory itself", "smaller model"),
        "disk kind": ("ok", "NVMe", ""),
    },
    "orin-nano-jetpack6": {
        "board": ("warn", "JetPack 6.2.1, L4T 36.4.4, CUDA unknown", "nvidia-jetpack"),
        "power mode": ("ok", "15W, clocks as the load asks; below the strongest", "-m 2"),
        "heat": ("ok", "cpu-thermal 43.5 °C", ""),
        "power": ("ok", "VDD_CPU_GPU_CV unknown", ""),
        "llama.cpp": ("fail", "CPU only", "apt install nvidia-jetpack, then"),
        "swap": ("ok", "none", ""),
        "disk kind": ("warn", "/dev/mmcblk0p1, SD card", "NVMe"),
    },
    "pc": {
        "board": ("ok", "Dell Inc. Precision 3660", ""),
        "heat": ("ok", "nvme Composite 38.9 °C", ""),
        "power": ("ok", "NVIDIA RTX A2000 12GB 17.3 W", ""),
        "llama.cpp": ("fail", "CPU only, though there is an NVIDIA GPU", "-DGGML_CUDA=ON"),
        "swap": ("ok", "0 B of 8.6 GB used, /dev/dm-1", ""),
        "disk kind": ("ok", "NVMe", ""),
    },
    "pc-service-user": {
        "board": ("ok", "ASRock", ""),
        "heat": ("ok", "k10temp Tctl 47.1 °C", ""),
        "power": ("ok", "unknown: package-0", "as root"),
        "llama.cpp": ("ok", "CPU, llama-cpp-python 0.3.36", ""),
        "swap": ("ok", "none", ""),
        "disk kind": ("warn", "/dev/sda1, hard disk", "NVMe"),
    },
    "container": {
        "board": ("ok", "unknown", ""),
        "heat": ("warn", "temperatures unknown", "/sys"),
        "power": ("ok", "unknown: nothing here measures it", ""),
        "llama.cpp": ("ok", "CPU, llama-cpp-python 0.3.36", ""),
        "swap": ("warn", "unknown", "/proc"),
        "disk kind": ("ok", "overlay, of an unknown kind", ""),
    },
}


@pytest.fixture
def doctor(
    run: Run, tiny_model: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, LlamaBuild], dict[str, Any]]:
    """Its checks by name, on a recorded machine with a build of llama.cpp."""
    monkeypatch.setenv("EDGE_MODELS__DEFAULT", "tiny")
    monkeypatch.setenv("EDGE_HTTP__PORT", str(free_port))

    def checks(name: str, build: LlamaBuild) -> dict[str, Any]:
        monkeypatch.setenv("EDGE_HOST_ROOT", str(lay_out(name, tmp_path / "machine")))
        monkeypatch.setattr("edge.host.llama_build.probe", lambda: build)
        # The state directory of a test is on no disk of the recorded machine.
        where = Path("/var/lib/edge")
        look = machine_checks.memory_checks
        monkeypatch.setattr("edge.cli.doctor.memory_checks", lambda root, _: look(root, where))
        report = json.loads(run("doctor", "--json").output)
        return {check["name"]: check for check in report["checks"]}

    return checks


Doctor = Callable[[str, LlamaBuild], dict[str, Any]]


def test_every_machine_is_in_the_table() -> None:
    """A recorded tree that nobody looks at would prove nothing."""
    assert sorted(TABLE) == recorded_trees.NAMES


@pytest.mark.parametrize("name", TABLE)
def test_findings(name: str, doctor: Doctor) -> None:
    """Status, finding and cure of every line that is about the machine."""
    found = doctor(name, CPU_BUILD)
    for check, (status, finding, fix) in TABLE[name].items():
        line = found[check]
        assert line["status"] == status, line
        assert finding in line["finding"], line
        assert (fix in (line["fix"] or "")) if fix else line["fix"] is None, line
    assert ("power mode" in found) == ("orin" in name)


def test_build_with_cuda_is_right_on_a_board(doctor: Doctor) -> None:
    """The same line says ok, and that engine.backend keeps the GPU idle where it does."""
    assert doctor("agx-orin-jetpack6", CUDA_BUILD)["llama.cpp"]["status"] == "ok"


NO_DEVICE = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
NO_LIBRARY = "libcudart.so.12: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("build", "finding", "fix"),
    [
        (
            msgspec.structs.replace(CPU_BUILD, back_ends=["CUDA", "CPU"], said=NO_DEVICE),
            f"its CUDA back end finds no GPU: {NO_DEVICE}",
            "groups video and render",
        ),
        (
            msgspec.structs.replace(CPU_BUILD, back_ends=["CPU"], unloadable=NO_LIBRARY),
            f"its CUDA back end cannot be loaded: {NO_LIBRARY}",
            "apt install nvidia-jetpack",
        ),
    ],
)
def test_cuda_that_is_there_and_computes_nothing(
    build: LlamaBuild, finding: str, fix: str, doctor: Doctor
) -> None:
    """To build it again, which takes an hour on a board, would not help: it says what would."""
    line = doctor("agx-orin-jetpack6", build)["llama.cpp"]
    assert line["status"] == "fail"
    assert finding in line["finding"]
    assert fix in line["fix"]
    assert "build again" not in line["fix"]


def test_what_the_gpu_waits_for(
    doctor: Doctor, daemon: FakeDaemon, status: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers are there, and the KV cache is not."""
    facts = {"backend": "cuda", "gpu_layers": 23, "left_on_cpu": ["the KV cache"]}
    status["models"][0]["facts"] |= facts
    daemon.serve(status)
    monkeypatch.setenv("EDGE_HTTP__PORT", str(daemon.port))
    line = doctor("agx-orin-jetpack6", CUDA_BUILD)["gpu layers"]
    assert line["status"] == "warn"
    assert "CUDA, 23 of 23 layers; on the CPU: the KV cache" in line["finding"]


def test_backend_cpu_leaves_the_gpu_idle(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was configured so, maybe long ago: a warning with the key."""
    monkeypatch.setenv("EDGE_ENGINE__BACKEND", "cpu")
    line = doctor("agx-orin-jetpack6", CUDA_BUILD)["llama.cpp"]
    assert (line["status"], line["fix"]) == ("warn", "set engine.backend to auto")


@pytest.mark.parametrize(("layers", "judged"), [(23, "ok"), (9, "warn"), (0, "warn")])
def test_layers_that_really_went_to_the_gpu(
    layers: int,
    judged: str,
    doctor: Doctor,
    daemon: FakeDaemon,
    status: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the running daemon tells it: a CUDA build alone computes nothing there."""
    status["models"][0]["facts"] |= {"backend": "cuda", "gpu_layers": layers}
    daemon.serve(status)
    monkeypatch.setenv("EDGE_HTTP__PORT", str(daemon.port))
    line = doctor("agx-orin-jetpack6", CUDA_BUILD)["gpu layers"]
    assert line["status"] == judged
    assert ("CPU" if layers == 0 else f"{layers} of 23") in line["finding"]


def test_sensor_that_hangs_does_not_stop_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fact is unknown, and the others are there."""
    forever = threading.Event()
    monkeypatch.setattr("edge.host.thermal.zones", lambda root: forever.wait())
    monkeypatch.setattr(machine_checks, "_SECONDS", 1.0)
    found = doctor("agx-orin-jetpack6", CUDA_BUILD)
    forever.set()
    assert found["heat"]["finding"].startswith("temperatures unknown")
    assert found["board"]["status"] == "ok"
    assert found["llama.cpp"]["status"] == "ok"
