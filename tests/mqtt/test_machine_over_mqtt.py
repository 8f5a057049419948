"""A real daemon that is shown a recorded board: metrics, status, telemetry, and its log."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from daemon_process import Start, poll
from factory import DEVICE, Join, behind
from mosquitto import Mosquitto
from recorded_trees import lay_out

TELEMETRY = f"edge/{DEVICE}/telemetry"


def test_heat_and_power_of_a_board(
    broker: Mosquitto, start_quick: Start, join: Join, tmp_path: Path
) -> None:
    """By every way out, also when sensors vanish; and a build without CUDA is warned of."""
    client = join(broker, TELEMETRY)
    board = lay_out("agx-orin-jetpack6", tmp_path / "board")
    daemon = start_quick(**behind(broker, host_root=board)).wait_ready()
    poll(lambda: "CPU alone, and the GPU of this Jetson is idle" in daemon.log, "the warning")
    poll(lambda: "edge_energy_joules_total" in daemon.metrics(), "power")
    metrics = daemon.metrics()
    assert metrics['edge_temperature_celsius{zone="cpu-thermal"}'] == 51.25
    assert math.isnan(metrics['edge_temperature_celsius{zone="cv0-thermal"}'])
    assert round(metrics['edge_power_watts{rail="VDD_CPU_CV"}'], 2) == 3.17

    host = daemon.get("/admin/v1/status").json()["host"]
    assert host["identity"]["mode"]["name"] == "30W"
    assert host["temperatures"]["gpu-thermal"] == {
        "celsius": 48.031,
        "throttles_at": 99.0,
        "shuts_down_at": 104.5,
        "enforced": True,
    }

    told = poll(lambda: [one for one in client.on(TELEMETRY) if one.json["power_watts"]], "watts")
    telemetry = told[0].json
    assert round(telemetry["power_watts"], 2) == 14.33
    assert telemetry["temperature_celsius"]["cv0-thermal"] is None
    assert telemetry["temperature_celsius"]["tj-thermal"] == 51.25
    assert telemetry["throttling"] == []
    # The first one may come before the end of the first stretch that is measured.
    if energy := telemetry["energy"]:
        assert (energy["requests"], energy["models"]) == (0.0, {})
        assert telemetry["rails_joules"].keys() == telemetry["rails_watts"].keys()
    assert telemetry["forecast"] is None
    held_back = {"level": "normal", "reason": None, "text": "nothing is held back"}
    assert telemetry["heat"] == held_back

    # The whole of /sys goes away, as when a driver is unloaded.
    shutil.rmtree(board / "sys")
    poll(lambda: not [name for name in daemon.metrics() if "celsius" in name], "no temperatures")
    poll(lambda: not [name for name in daemon.metrics() if "power_watts" in name], "no power")
    assert "edge_energy_joules_total" not in daemon.metrics()
    assert daemon.get("/admin/v1/status").json()["host"]["power"] is None
    answer = daemon.post("/v1/completions", {"prompt": "Hello", "max_tokens": 2})
    assert answer.status_code == 200
    assert daemon.stop() == 0
