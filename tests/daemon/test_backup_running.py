"""A backup of an appliance at work, and the machine that goes on in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from daemon_process import PATIENCE, DaemonProcess, Start, poll

from edge.access.keyring import Keyring
from edge.audit.folder import Folder
from edge.audit.verify import verify

BODY = {"prompt": "The sea is", "temperature": 0, "max_tokens": 60}


def edge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the appliance in that folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
    environment["EDGE_STATE_DIR"] = str(folder / "state")
    environment["EDGE_CONFIG"] = str(folder / "edge.yaml")
    command = [sys.executable, "-m", "edge", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def keep(daemon: DaemonProcess, number: int) -> str:
    body = {**BODY, "prompt": f"{number}. The sea is"}
    accepted = daemon.post("/v1/completions", body, Prefer="respond-async")
    assert accepted.status_code == 202
    return str(accepted.json()["id"])


def answer(daemon: DaemonProcess, name: str) -> str:
    def ended() -> Any:
        response = daemon.get(f"/v1/responses/{name}").json()
        return None if response["status"] in ("queued", "in_progress") else response

    return str(poll(ended, "an end")["output"][0]["content"][0]["text"])


def test_a_backup_under_load_goes_on_elsewhere(start_quick: Start, tmp_path: Path) -> None:
    """Every job that was acknowledged before it is answered there, with the same words."""
    daemon = start_quick().wait_ready()
    Keyring(daemon.folder / "state" / "keys").add("press")
    lines = "".join(
        json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": BODY})
        + "\n"
        for n in range(3)
    )
    uploaded = daemon.http.post(
        f"{daemon.url}/v1/files", files={"file": ("a.jsonl", lines)}, data={"purpose": "batch"}
    ).json()
    stopping, later = threading.Event(), []

    def load() -> None:
        while not stopping.is_set():
            later.append(keep(daemon, 100 + len(later)))

    names = [keep(daemon, number) for number in range(8)]
    loader = threading.Thread(target=load)
    loader.start()
    try:
        poll(lambda: len(later) > 2, "some load")
        made = edge(daemon.folder, "backup", str(tmp_path / "backup"), "--json")
    finally:
        stopping.set()
        loader.join()
    assert made.returncode == 0, made.stderr
    assert daemon.get("/health/ready").status_code == 200
    right = [answer(daemon, name) for name in names]
    refused = edge(daemon.folder, "restore", str(tmp_path / "backup"), "--replace")
    assert refused.returncode == 1
    assert "stop the other" in refused.stderr
    assert daemon.stop() == 0

    other = tmp_path / "other"
    other.mkdir()
    restored = edge(other, "restore", str(tmp_path / "backup"))
    assert restored.returncode == 0, restored.stderr
    folder = Folder(other / "state")
    assert verify(folder, folder.public_key()).findings == []
    assert [key.name for key in Keyring(other / "state" / "keys").all()] == ["press"]
    second = start_quick(folder=other).wait_ready()
    assert [answer(second, name) for name in names] == right
    assert second.get(f"/v1/files/{uploaded['id']}/content").text == lines
    assert second.stop() == 0
    assert verify(folder, folder.public_key()).findings == []
