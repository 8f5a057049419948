"""An upstream's key is sent to that upstream and is found nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from daemon_process import DaemonProcess, Start, poll
from fake_cloud import FakeCloud
from scenarios import ask

CANARY = "sk-canary-4f6b2f0d9e"


def everything_told(daemon: DaemonProcess) -> str:
    paths = ["/metrics", "/admin/v1/status", "/admin/v1/jobs", "/v1/models", "/openapi.json"]
    return "".join(daemon.get(path).text for path in paths)


def test_key_is_found_nowhere(start: Start, tmp_path: Path) -> None:
    """Not in answers and errors, though the upstream echoes it; not in what is logged or kept."""
    file = tmp_path / "key"
    file.write_text(CANARY + "\n")
    with FakeCloud(key=CANARY) as cloud:
        config = tmp_path / "edge.yaml"
        config.write_text(
            "routes: {far: [cloud:cloud]}\n"
            f"upstreams: {{cloud: {{base_url: '{cloud.url}', api_key_file: {file}, retries: 0}}}}\n"
        )
        daemon = start(yaml=config.read_text()).wait_ready()
        assert ask(daemon, "far", stream=True).done
        assert cloud.calls()[0]["headers"]["authorization"] == f"Bearer {CANARY}"
        cloud.fault("key_echo")
        told = [ask(daemon, "far", stream=stream).error for stream in (True, False)]
        body = {"model": "far", "messages": [{"role": "user", "content": "count"}]}
        kept = daemon.post("/v1/chat/completions", body, Prefer="respond-async")
        job = "/admin/v1/jobs/" + kept.headers["location"].rpartition("_")[2]
        poll(lambda: daemon.get(job).json()["attempts"] > 0, "a try")
        texts = [str(told), daemon.get(job).text, everything_told(daemon)]
        command = [sys.executable, "-m", "edge", "config", "show", "--config", str(config)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        daemon.stop()
        texts += [shown.stdout, daemon.log]
        state = daemon.folder / "state"
        texts += [f.read_bytes().decode("latin-1") for f in state.glob("*") if f.is_file()]
        assert str(file) in shown.stdout
        assert not [text for text in texts if CANARY in text]
