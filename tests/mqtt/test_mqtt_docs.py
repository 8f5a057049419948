"""What docs/mqtt.md tells people to copy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import PATIENCE, DaemonProcess
from mosquitto import Mosquitto

PAGE = (Path(__file__).parents[2] / "docs/mqtt.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_example(daemon: DaemonProcess, shared_broker: Mosquitto) -> None:
    """It runs as it stands, but for the port, and prints its answer."""
    (program,) = blocks("python")
    program = program.replace('connect("127.0.0.1")', f'connect("127.0.0.1", {shared_broker.port})')
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("b'part 4711' ")


def test_the_node_red_flow() -> None:
    """Node-RED can import it: JSON whose wires lead somewhere, and whose payload is a prompt."""
    flow = next(json.loads(text) for text in blocks("json") if '"inject"' in text)
    ids = {node["id"] for node in flow}
    assert {one for node in flow for wire in node.get("wires", []) for one in wire} <= ids
    assert json.loads(flow[0]["payload"])["reply_to"] == "nodered/reply/1"


@pytest.mark.parametrize("name", re.findall(r"`(edge_mqtt_\w+)`", PAGE))
def test_its_metrics(daemon: DaemonProcess, name: str) -> None:
    """They are there from the first look on."""
    assert name in daemon.get("/metrics").text
