"""The unit files as systemd itself judges them, without booting it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
MOST_EXPOSED = 2.0

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with programs that are there: the verifier looks for them."""
    for unit in UNITS.glob("edge*.s*"):
        text = re.sub(r"/opt/edge/\S+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_has_no_complaint(installed: Path) -> None:
    done = analyze("verify", *map(str, sorted(installed.iterdir())))
    complaints = done.stderr.splitlines()
    ours = [line for line in complaints if str(installed) in line or line.startswith("edge")]
    assert (done.returncode, ours) == (0, [])


def test_exposure_stays_low() -> None:
    service = str(UNITS / "edge.service")
    done = analyze("security", "--offline=true", "--no-pager", service)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze security --offline is for systemd 250 and newer")
    found = re.search(r"Overall exposure level for edge.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_graphics_devices_stay_reachable() -> None:
    """What hides them costs nothing but a GPU, silently: llama.cpp goes on with the CPU."""
    unit = configparser.RawConfigParser(strict=False)
    unit.read(UNITS / "edge.service")
    service = unit["Service"]
    assert "PrivateDevices" not in service
    assert "PrivateUsers" not in service
    assert "video" in service["SupplementaryGroups"]
    text = (UNITS / "edge.service").read_text()
    for kind in ("char-nvhost*", "char-nvgpu*", "char-nvidia*", "char-drm"):
        assert f"DeviceAllow={kind} rw" in text
