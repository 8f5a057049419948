"""Who the machine is, and how much power it may take: host name and power mode."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable
from typing import Any

from firstboot import durable
from firstboot.machine import Failed, Machine
from firstboot.marks import Marks

SERIAL = "proc/device-tree/serial-number"
ASKED = "power.asked"


def name(machine: Machine, settings: Callable[[], dict[str, Any]]) -> str:
    """device.id of the configuration, else `edge-` and the end of the board's serial number. The
    program takes the host name for a device's that has none: so it has to be right before."""
    _take(machine, default_name(machine))
    wanted = host_name(settings()["device"]["id"]) or default_name(machine)
    _take(machine, wanted)
    return wanted


def _take(machine: Machine, wanted: str) -> None:
    durable.write(machine.path("etc/hostname"), f"{wanted}\n".encode())
    hosts = machine.text("etc/hosts") or "127.0.0.1 localhost\n::1 localhost"
    lines = [line for line in hosts.splitlines() if not re.match(r"127\.0\.1\.1\s", line)]
    text = "\n".join([*lines, f"127.0.1.1 {wanted}", ""])
    durable.write(machine.path("etc/hosts"), text.encode())
    if str(machine.root) == "/":
        # Now too, and without a service of systemd's that a small image has not got.
        socket.sethostname(wanted)


def host_name(text: str) -> str:
    """What of a device's name may be in a host name (RFC 1123)."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower())[:63].strip("-")


def default_name(machine: Machine) -> str:
    """The same at every boot, and another one for each board of a lot."""
    serial = host_name(machine.text(SERIAL))
    if not serial:
        # No board's: the number that systemd has drawn for this installation, not told as it is.
        drawn = machine.text("etc/machine-id") or socket.gethostname()
        serial = hashlib.sha256(drawn.encode()).hexdigest()
    return f"edge-{serial[-8:].strip('-')}"


def power(machine: Machine, settings: dict[str, Any], marks: Marks) -> str:
    """Set the mode of the configuration. Some modes are only reached by a restart, which nvpmodel
    does by itself where it is told yes: it is told so once and never again."""
    wanted = settings["device"]["power_mode"]
    if wanted is None:
        return "left as it is"
    if not machine.text("etc/nvpmodel.conf"):
        return "this machine has no power modes"
    number = mode_number(machine.text("etc/nvpmodel.conf"), str(wanted))
    if _mode(machine) == number:
        return f"mode {wanted}"
    again = marks.has(ASKED)
    if not again:
        marks.set(ASKED)
    try:
        said = machine.run("nvpmodel", "-m", str(number), answer="no\n" if again else "yes\n")
    except Failed as error:
        said = str(error)
    if _mode(machine) == number:
        return f"mode {wanted}"
    if again:
        raise Failed(f"mode {wanted} could not be set: {said.strip()}", f"nvpmodel -m {number}")
    raise Failed(f"mode {wanted} waits for a restart", "reboot")


def mode_number(conf: str, wanted: str) -> int:
    """Of a mode's name or number, as /etc/nvpmodel.conf has them. Raises `Failed`."""
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", conf, re.M)
    modes = {name.removeprefix("MODE_"): int(number) for number, name in found}
    if wanted.removeprefix("MODE_") in modes:
        return modes[wanted.removeprefix("MODE_")]
    if wanted.isdecimal() and int(wanted) in modes.values():
        return int(wanted)
    raise Failed(f"this board has no power mode {wanted}", f"one of {', '.join(modes)}")


def _mode(machine: Machine) -> int | None:
    """As it stays over restarts."""
    found = re.search(r"pmode:(\d+)", machine.text("var/lib/nvpmodel/status"))
    return None if found is None else int(found[1])
