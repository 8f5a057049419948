"""Whether the appliance does what it is for: `edge doctor`, a prompt over HTTP, one over MQTT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from firstboot import program
from firstboot.machine import BASE, CONFIG, Failed, Machine

PATIENCE = 1200.0
"""Seconds: a big model is read from a slow card, and answers on a slow processor."""

PROMPT = "Say yes."


class Finding(NamedTuple):
    """status: ok, warn or fail, as edge doctor says it."""

    name: str
    status: str
    text: str
    fix: str = ""


def examine(machine: Machine, settings: dict[str, Any]) -> list[Finding]:
    """Each by itself: what fails does not hide the rest."""
    return [_service(machine), *_doctor(machine), _http(machine), *_mqtt(machine, settings)]


def publish(machine: Machine, message: dict[str, Any]) -> None:
    """Retained, on ROOT/DEVICE/firstboot. Raises `Failed`, where there is no broker above all."""
    _ask_broker(machine, "publish", json.dumps(message))


def _service(machine: Machine) -> Finding:
    """It notifies systemd once its models have computed something."""
    try:
        machine.run("systemctl", "start", "edge", patience=PATIENCE)
    except Failed as error:
        return Finding("service", "fail", str(error), "journalctl -u edge")
    return Finding("service", "ok", "runs")


def _doctor(machine: Machine) -> list[Finding]:
    """It exits with 1 where a check fails, and has told all of them before."""
    script = '"$0" doctor --json || [ $? -eq 1 ]'
    try:
        said = machine.run("sh", "-c", script, _edge(machine), patience=PATIENCE)
        checks = json.loads(said)["checks"]
    except (Failed, ValueError) as error:
        return [Finding("doctor", "fail", str(error), "edge doctor")]
    return [
        Finding(one["name"], one["status"], one["finding"], one.get("fix") or "") for one in checks
    ]


def _http(machine: Machine) -> Finding:
    try:
        said = machine.run(_edge(machine), "chat", "--max-tokens", "8", PROMPT, patience=PATIENCE)
    except Failed as error:
        return Finding("prompt over HTTP", "fail", str(error), "edge status")
    if not said.strip():
        return Finding("prompt over HTTP", "fail", "the answer is empty", "edge status")
    return Finding("prompt over HTTP", "ok", f"answered: {' '.join(said.split())}")


def _mqtt(machine: Machine, settings: dict[str, Any]) -> list[Finding]:
    if not settings["mqtt"]["enabled"]:
        return []
    name = "prompt over MQTT"
    try:
        answer = json.loads(_ask_broker(machine, "prompt", PROMPT))
    except Failed as error:
        # Somebody else's broker may be away; our own may not.
        own = machine.path("etc/mosquitto/conf.d/edge.conf").exists()
        return [Finding(name, "fail" if own else "warn", str(error), "journalctl -u edge")]
    if answer.get("status") == "done":
        return [Finding(name, "ok", "answered")]
    code = (answer.get("error") or {}).get("code", answer.get("status"))
    if code == "invalid_api_key":
        return [Finding(name, "ok", "the broker is there; prompts over it need a key")]
    return [Finding(name, "fail", f"the reply is {code}", "journalctl -u edge")]


def _ask_broker(machine: Machine, *words: str) -> str:
    """The program's own Python has a client of MQTT."""
    script = Path(__file__).with_name("broker.py")
    password = program.credential(machine)
    return machine.run(
        machine.path(BASE) / "current/bin/python",
        script,
        *words,
        environment={
            "EDGE_CONFIG": str(machine.path(CONFIG)) if machine.path(CONFIG).exists() else "",
            "CREDENTIALS_DIRECTORY": str(password.parent) if password else "",
        },
        patience=PATIENCE,
    )


def _edge(machine: Machine) -> Path:
    return machine.path(BASE) / "current/bin/edge"
