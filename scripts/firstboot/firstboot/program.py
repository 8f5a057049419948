"""The program: made from the bundle that came with the image, configured, with certificates and
keys, and started. All of it is done by what the bundle brings, install.sh and `edge`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from firstboot import durable, partition
from firstboot.machine import BASE, BUNDLE, CONFIG, CREDENTIALS, Failed, Machine

MINUTES = 60.0
PASSWORD = "mqtt.password"

ADD_USER_NAME = """
import sys, yaml
text = sys.stdin.read()
tree = yaml.compose(text)
pairs = [] if tree is None else tree.value
mqtt = next((value for key, value in pairs if key.value == "mqtt"), None)
if mqtt is None or not isinstance(mqtt, yaml.MappingNode) or not mqtt.value:
    lines = [] if text.endswith("\\n") or not text else [""]
    sys.stdout.write(text + "\\n".join([*lines, "mqtt: {username: edge}", ""]))
else:
    first = mqtt.value[0][0].start_mark
    added = ", " if mqtt.flow_style else "\\n" + " " * first.column
    sys.stdout.write(text[: first.index] + "username: edge" + added + text[first.index :])
"""
"""Run by the program's Python, which has a reader of YAML: the rest of the file, comments too,
stays as somebody wrote it."""


def prepare(machine: Machine) -> str:
    """The program and its user, before all else: it alone can judge a configuration."""
    # What a power cut in the middle of the packages has left: apt does nothing before.
    machine.run(
        *("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--configure", "-a"),
        patience=20 * MINUTES,
    )
    machine.follow(_installer(machine), "prepare", patience=40 * MINUTES)
    return _facts(machine)["version"]


def configure(machine: Machine, place: Path) -> str:
    """edge.yaml of the boot partition becomes the configuration. Of a wrong one a file beside it
    tells; the machine goes on with what it has, and looks again at the next boot. Where there is
    none, the one that came with the image is looked at in the same way."""
    given = machine.path(CONFIG)
    try:
        found = partition.settings(place)
    except partition.Unreadable as error:
        raise _refused(place, "edge.yaml", str(error)) from None
    if found is None and not given.exists():
        return "there is no edge.yaml on the boot partition: the defaults"
    name, text = found or (f"/{CONFIG}", given.read_text(encoding="utf-8"))
    candidate = given.with_name("edge.yaml.candidate")
    durable.write(candidate, text.encode())
    try:
        machine.run(_edge(machine), "config", "check", candidate, patience=5 * MINUTES)
        if _speaks_to_own_broker(machine, candidate):
            python = _venv(machine) / "bin/python"
            text = machine.run(python, "-c", ADD_USER_NAME, answer=text)
            durable.write(candidate, text.encode())
            machine.run(_edge(machine), "config", "check", candidate, patience=5 * MINUTES)
    except Failed as error:
        said = str(error).replace(str(candidate), name)
        candidate.unlink()
        if found is None:
            os.replace(given, given.with_name("edge.yaml.refused"))
        raise _refused(place, name, said) from None
    os.replace(candidate, given)
    durable.sync_folder(candidate.parent)
    partition.take_away(place, partition.REFUSED)
    return f"{name} is in force"


def certificates(machine: Machine) -> str:
    """An authority and a certificate of this machine's own, before anything wants to use them."""
    state = machine.path("var/lib/edge")
    machine.run(
        *("setpriv", "--reuid=edge", "--regid=edge", "--init-groups"),
        *("env", f"HOME={state}", f"EDGE_STATE_DIR={state}", f"EDGE_CONFIG={_config(machine)}"),
        *(_edge(machine), "certs", "init"),
        patience=5 * MINUTES,
    )
    return "made; clients are given /var/lib/edge/certs/ca.crt"


def install(machine: Machine) -> str:
    """Broker, model, keys and service. The keys are shown on the console, and nowhere else: the
    boot partition is readable for everybody who holds the disk, and for ever."""
    machine.follow(_installer(machine), patience=40 * MINUTES)
    return f"edge {os.readlink(machine.path(BASE) / 'current')} is in use"


def settings(machine: Machine) -> dict[str, Any]:
    """The configuration as the program reads it."""
    shown = machine.run(
        *(_edge(machine), "config", "show", "--json"),
        environment={"EDGE_CONFIG": _config(machine)},
        patience=5 * MINUTES,
    )
    found: dict[str, Any] = json.loads(shown)
    return found


def _config(machine: Machine) -> str:
    """Empty where there is none yet: then the defaults."""
    file = machine.path(CONFIG)
    return str(file) if file.exists() else ""


def _speaks_to_own_broker(machine: Machine, file: Path) -> bool:
    """With a user name wanted that nobody could know beforehand: the installer sets up a broker
    that lets nobody in without one."""
    shown = machine.run(
        *(_edge(machine), "config", "show", "--json", "--config", file), patience=5 * MINUTES
    )
    mqtt = json.loads(shown)["mqtt"]
    local = mqtt["host"] in ("127.0.0.1", "localhost", "::1")
    brings = "mosquitto" in _facts(machine).get("packages", "").split()
    there = machine.path("usr/sbin/mosquitto").exists() or brings
    return bool(mqtt["enabled"] and local and mqtt["username"] is None and there)


def _refused(place: Path, name: str, why: str) -> Failed:
    text = f"{name} was not used:\n\n{why}\n\nMend it here; the next boot looks at it again.\n"
    partition.leave(place, partition.REFUSED, text)
    hint = f"mend {name} on the boot partition, then restart; the defaults are in force"
    return Failed(f"{name} is not used: {why}", hint)


def _facts(machine: Machine) -> dict[str, str]:
    lines = machine.text(f"{BUNDLE}/bundle.env").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _installer(machine: Machine) -> Path:
    return machine.path(BUNDLE) / "scripts" / "install.sh"


def _venv(machine: Machine) -> Path:
    """Of the version in use, else the one that was made and is not in use yet."""
    current = machine.path(BASE) / "current"
    if current.exists():
        return current
    made = sorted(machine.path(BASE).glob("*/.identity"))
    if not made:
        raise Failed("the program is not there")
    return made[-1].parent


def _edge(machine: Machine) -> Path:
    return _venv(machine) / "bin" / "edge"


def credential(machine: Machine) -> Path | None:
    file = machine.path(CREDENTIALS) / PASSWORD
    return file if file.exists() else None
