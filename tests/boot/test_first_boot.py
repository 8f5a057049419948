"""The first boot of a flashed machine: nobody types, there is no network, and the power goes at
each step of it.

`./scripts/soak firstboot` for machines of this kind, `./scripts/soak firstboot arm64` for emulated
ones, of which there is one test: it takes most of an hour.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import make_bundle
from conftest import missing
from daemon_process import poll
from images import bare_system, emulated, lay_over, make_foreign_overlay, make_overlay
from machine import PATIENCE, Machine

ARCHITECTURE = os.environ.get("SOAK_ARCHITECTURE") or None
STEPS = ["disk", "program", "settings", "name", "certificates", "service", "power", "self-test"]
RESULT = "boot/efi/edge-first-boot.txt"
REFUSED = "boot/efi/edge-yaml-error.txt"
FINISHED = "var/lib/edge-firstboot/finished"
KEY = re.compile(r"edge_[a-z0-9]{8}_\w+")
EMULATED = 7200.0
"""Seconds: forty times slower than this machine, and everything is compiled to bytecode once."""

native = pytest.mark.skipif(ARCHITECTURE is not None, reason="once, on machines of this kind")


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the flasher has written."""
    if why := missing():
        pytest.skip(why)
    folder, system = tmp_path_factory.mktemp("image"), bare_system(ARCHITECTURE)
    archive = folder / "overlay.tar.zst"
    if ARCHITECTURE is None:
        make_overlay(archive, make_bundle(folder))
    else:
        make_foreign_overlay(archive, system, Path(os.environ["SOAK_WHEELS"]))
    layers = [lay_over(archive, folder / "overlay"), system]
    return layers if ARCHITECTURE is None else [emulated(folder / "emulated"), *layers]


@pytest.fixture
def flashed(disks: list[Path], tmp_path: Path) -> Iterator[Machine]:
    """A machine that was never switched on."""
    machine = Machine(disks, tmp_path / "flashed", tmp_path)
    try:
        yield machine
    finally:
        machine.end()


def put_on_boot_partition(machine: Machine, name: str, text: str) -> None:
    """As a text editor of Windows writes it."""
    place = machine.root / "boot/efi"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())


def run_to_the_end(machine: Machine) -> str:
    """Wait for the report, and give it back as the boot partition has it."""
    poll(lambda: " first boot of " in machine.console(), "the report", EMULATED)
    up = ("systemctl", "is-system-running")
    poll(lambda: machine.run(*up, check=False).stdout, "systemd", PATIENCE)
    poll(lambda: state_of(machine) not in ("activating", "unknown"), "the end", PATIENCE)
    return (machine.root / RESULT).read_bytes().decode()


def state_of(machine: Machine) -> str:
    said = machine.run("systemctl", "is-active", "edge-firstboot", check=False)
    return said.stdout.strip() or "unknown"


def assert_finished(machine: Machine, report: str) -> None:
    assert ": finished (" in report.splitlines()[0], report
    assert report.count("\r\n") == report.count("\n")
    assert (machine.root / FINISHED).exists()
    answered = machine.run("edge", "chat", "--max-tokens", "4", "Hello.", timeout=EMULATED)
    assert answered.stdout.strip()


def test_first_boot(flashed: Machine) -> None:
    """All by itself; the keys are shown once, and on the console alone."""
    flashed.switch_on()
    report = run_to_the_end(flashed)
    assert_finished(flashed, report)
    for expected in ("ok    prompt over HTTP: answered", "ok    prompt over MQTT: answered"):
        assert expected in report
    host = flashed.run("hostname").stdout.strip()
    assert re.fullmatch(r"edge-[0-9a-f]{8}", host)
    assert (flashed.root / "etc/hostname").read_text().strip() == host
    shown = KEY.findall(flashed.console())
    assert len(shown) == 2
    journal = flashed.run("journalctl", "--no-pager", "--output=cat").stdout
    assert "first boot 8/8, self-test: passed" in journal
    for key in shown:
        assert key not in journal
        assert key not in report
    message = json.loads(retained(flashed, f"edge/{host}/firstboot"))
    assert message["state"] == "finished"
    assert [one["name"] for one in message["findings"]][:3] == STEPS[:3]
    flashed.cut_power()
    flashed.boot()
    assert flashed.show("edge-firstboot", "ConditionResult") == ["no"]
    assert flashed.console().count(" first boot of ") == 1


def retained(machine: Machine, topic: str) -> str:
    """What the broker has there, as the appliance's user."""
    password = machine.run("cat", "/etc/edge/credentials/mqtt.password").stdout.strip()
    command = ["mosquitto_sub", "-u", "edge", "-P", password, "-t", topic, "-C", "1", "-W", "60"]
    return machine.run(*command).stdout


@native
def test_settings_from_the_boot_partition(flashed: Machine) -> None:
    """Zero-touch: a name, TLS for the network, a broker with no user name in the file."""
    text = "# Halle 3\ndevice:\n  id: Press_07\nhttp: {host: 0.0.0.0, port: 8443, tls: true}\n"
    put_on_boot_partition(flashed, "Edge.yaml.txt", text)
    flashed.switch_on()
    report = run_to_the_end(flashed)
    assert_finished(flashed, report)
    assert "Edge.yaml.txt is in force" in report
    assert "ok    prompt over MQTT: answered" in report
    assert flashed.run("hostname").stdout.strip() == "press-07"
    written = flashed.run("cat", "/etc/edge/edge.yaml").stdout
    assert written.startswith("# Halle 3\n")
    assert "username: edge" in written
    certificate = flashed.run("edge", "certs", "show").stdout
    assert "press-07" in certificate
    assert "0.0.0.0:8443" in flashed.run("ss", "-ltn").stdout


@native
def test_wrong_settings_are_told_of_and_mended(flashed: Machine) -> None:
    """The machine works with its defaults meanwhile."""
    put_on_boot_partition(flashed, "edge.yaml", "device: {id: press-07}\nhtttp: {port: 1}\n")
    flashed.switch_on()
    report = run_to_the_end(flashed)
    assert ": failed (" in report.splitlines()[0]
    assert "ok    prompt over HTTP: answered" in report
    told = (flashed.root / REFUSED).read_text()
    assert "htttp" in told
    assert "edge.yaml" in told
    assert "candidate" not in told
    put_on_boot_partition(flashed, "edge.yaml", "device: {id: press-07}\nhttp: {port: 8081}\n")
    flashed.cut_power()
    before = flashed.console().count(" first boot of ")
    flashed.switch_on()
    poll(lambda: flashed.console().count(" first boot of ") > before, "the report", PATIENCE)
    assert_finished(flashed, run_to_the_end(flashed))
    assert flashed.run("hostname").stdout.strip() == "press-07"
    assert "127.0.0.1:8081" in flashed.run("ss", "-ltn").stdout
    assert not (flashed.root / REFUSED).exists()


@native
def test_power_is_cut_at_each_step(flashed: Machine) -> None:
    """On one machine, one boot after another; then it ends as if nothing had been."""
    put_on_boot_partition(flashed, "edge.yaml", "device: {id: press-07}\n")
    for step in STEPS:
        flashed.switch_on()
        begun = f"edge: first boot: {step} …"
        poll(lambda begun=begun: begun in flashed.console(), f"{step} to begin", PATIENCE)
        flashed.cut_power()
        assert not (flashed.root / FINISHED).exists()
    flashed.switch_on()
    assert_finished(flashed, run_to_the_end(flashed))
    assert flashed.run("hostname").stdout.strip() == "press-07"


@native
@pytest.mark.parametrize(
    "moment",
    [
        "Installing system packages",
        "Making /opt/edge",
        "Installing edge",
        "Setting up mosquitto",
        "Installing the model",
        "Starting the service",
        "The first keys",
    ],
)
def test_power_is_cut_while_it_installs(flashed: Machine, moment: str) -> None:
    flashed.switch_on()
    poll(lambda: moment in flashed.console(), moment, PATIENCE)
    flashed.cut_power()
    flashed.switch_on()
    assert_finished(flashed, run_to_the_end(flashed))
    assert len(KEY.findall(flashed.console())) in (2, 3, 4)
