"""A machine without a network gets a bundle that was made on another one, and answers with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import PATIENCE

ASK = """
import sys, time, urllib.error, urllib.request
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:8080/health/ready").read()
        break
    except urllib.error.URLError:
        time.sleep(0.05)
body = b'{"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}'
request = urllib.request.Request(
    "http://127.0.0.1:8080/v1/chat/completions", body, {"Content-Type": "application/json"}
)
sys.stdout.buffer.write(urllib.request.urlopen(request).read())
"""

CONFIG = """
mqtt: {enabled: false}
models: {default: press}
engine: {slots: 2, context: 512, threads: 1}
"""


@pytest.fixture
def nowhere() -> Iterator[list[str]]:
    """What to put before a command so that it runs with a loopback and no other network."""
    name = f"nowhere-{os.getpid()}"
    try:
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    links = subprocess.run(["ip", "-n", name, "-j", "link"], check=True, capture_output=True)
    # Some kernels put tunnels without another end into every namespace; they are down.
    up = [link["ifname"] for link in json.loads(links.stdout) if "UP" in link["flags"]]
    assert up == ["lo"]
    yield ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "delete", name], check=True)


def edge(folder: Path, *arguments: str, before: list[str] | None = None) -> str:
    """Run the command with its state in the folder; what it prints."""
    command = [*(before or []), sys.executable, "-m", "edge", *arguments]
    done = subprocess.run(
        command, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    rest = {key: value for key, value in os.environ.items() if not key.startswith("EDGE_")}
    places = {"EDGE_STATE_DIR": f"{folder}/state", "EDGE_CONFIG": f"{folder}/etc/edge.yaml"}
    return rest | places


def test_a_machine_without_a_network(
    tmp_path: Path, default_model_path: Path, nowhere: list[str]
) -> None:
    """Nothing is there but the program, a trusted key and the stick."""
    maker, machine, stick = (tmp_path / name for name in ("maker", "machine", "stick"))
    stick.mkdir()
    (machine / "etc" / "trusted-keys.d").mkdir(parents=True)
    public = edge(maker, "bundle", "keygen", str(tmp_path / "key"))
    (machine / "etc" / "trusted-keys.d" / "maker.pem").write_text(public)
    edge(maker, "models", "import", str(default_model_path), "--name", "press")
    (tmp_path / "edge.yaml").write_text(CONFIG)
    arguments = ["--name", "line", "--version", "1", "--key", str(tmp_path / "key")]
    arguments += ["--model", "press", "--config", str(tmp_path / "edge.yaml")]
    edge(maker, "bundle", "make", str(stick / "line.bundle"), *arguments)

    done = edge(machine, "bundle", "install", str(stick / "line.bundle"), before=nowhere)
    assert "press@1" in done
    answer = serve_and_ask(machine, nowhere)
    assert answer["model"] == "press"
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["choices"][0]["message"]["content"]


def serve_and_ask(folder: Path, nowhere: list[str]) -> dict[str, Any]:
    serve = [*nowhere, sys.executable, "-m", "edge", "serve"]
    with open(folder / "log", "wb") as log:
        daemon = subprocess.Popen(serve, env=environment(folder), stdout=log, stderr=log)
    try:
        asked = subprocess.run(
            [*nowhere, sys.executable, "-c", ASK], capture_output=True, timeout=PATIENCE
        )
        assert asked.returncode == 0, asked.stderr
        answer: dict[str, Any] = json.loads(asked.stdout)
        return answer
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
        print((folder / "log").read_text())  # noqa: T201 - pytest shows it when something failed
