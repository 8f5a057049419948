"""Installing, upgrading and uninstalling on a booted machine without a network, and what becomes of
all that when the power is cut in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bundles import CRASHES, CRASHES_AS_SERVICE, FIRST, NEXT
from daemon_process import poll
from machine import PATIENCE, Machine
from promises import Promises
from test_booted_service import main_pid, wait_ready

INSTALL = f"/media/{FIRST}/scripts/install.sh"
SHOWN_ONCE = "shown only now"


def in_use(machine: Machine) -> str:
    return machine.run("readlink", "/opt/edge/current").stdout.strip()


def upgrade(version: str) -> list[str]:
    return [f"/media/{version}/scripts/install.sh", "upgrade"]


def said_until(machine: Machine, words: str, *command: str) -> str:
    """Start a command, and come back when it has said these words, with all that it said."""
    process = machine.start(*command)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"{words!r} is not in: {said}")


def assert_serves(machine: Machine, version: str) -> None:
    wait_ready(machine)
    assert in_use(machine) == version
    poll(lambda: machine.show("edge", "ActiveState") == ["active"], "active", PATIENCE)
    Promises(machine).take(2).assert_kept()
    answered = machine.run("edge", "chat", "--max-tokens", "4", "Hello.")
    assert answered.stdout.strip()
    assert machine.run("pgrep", "--count", "--full", "edge serve").stdout.strip() == "1"


def test_from_nothing_and_again(bare: Machine) -> None:
    """From an empty system with the packed bundle; the second run finds all done."""
    bare.run("bash", "-c", "mkdir /root/edge && tar -xf /media/edge.tar -C /root/edge")
    (install,) = bare.run("bash", "-c", "ls /root/edge/*/scripts/install.sh").stdout.split()
    first = bare.run(install)
    assert first.stdout.count("edge_") == 2
    assert SHOWN_ONCE in first.stdout
    assert_serves(bare, FIRST)
    before = main_pid(bare)
    bare.run("bash", "-c", "echo '# mine' >>/etc/edge/edge.yaml")
    again = bare.run(
        INSTALL.replace(f"/media/{FIRST}", install.removesuffix("/scripts/install.sh"))
    )
    assert SHOWN_ONCE not in again.stdout
    assert "# mine" in bare.run("cat", "/etc/edge/edge.yaml").stdout
    assert main_pid(bare) == before
    bare.cut_power()
    assert_serves(bare.boot(), FIRST)


def test_the_key_works_on_both_doors(bare: Machine) -> None:
    """Over HTTP once the network is let in, over MQTT as the password of its user."""
    shown = bare.run(f"/media/{FIRST}/scripts/install.sh").stdout
    client = next(
        line.split()[1] for line in shown.splitlines() if line.strip().startswith("client")
    )
    bare.run("bash", "-c", "echo 'http: {host: 0.0.0.0}' >>/etc/edge/edge.yaml")
    bare.run("edge-install")
    wait_ready(bare)
    assert "0.0.0.0:8080" in bare.run("ss", "-ltn").stdout
    ask = {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
    assert bare.ask("POST", "/v1/chat/completions", ask).status == 401
    allowed = bare.ask("POST", "/v1/chat/completions", ask, Authorization=f"Bearer {client}")
    assert allowed.status == 200
    device = bare.run("hostname").stdout.strip()
    heard = bare.run(
        *(
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-u",
            "client",
            "-P",
            client,
            "-t",
            f"edge/{device}/status",
        ),
        *("-C", "1", "-W", "60"),
    )
    assert '"online"' in heard.stdout
    assert bare.run(
        "mosquitto_sub", "-h", "127.0.0.1", "-t", "#", "-C", "1", "-W", "5", check=False
    ).returncode


@pytest.mark.parametrize(
    "moment",
    [
        "Installing system packages",
        "Making /opt/edge",
        "Installing edge",
        "Setting up mosquitto",
        "Installing the model",
        "Starting the service",
    ],
)
def test_power_is_cut_while_it_is_installed(bare: Machine, moment: str) -> None:
    """The same command again ends as if nothing had been."""
    said = said_until(bare, moment, INSTALL)
    time.sleep(0.5)  # into the middle of it; any moment has to do
    bare.cut_power()
    bare.boot()
    # What dpkg asks for after such a cut, and says so.
    bare.run("dpkg", "--configure", "-a", DEBIAN_FRONTEND="noninteractive")
    # By the one that made them, or by the other if it was cut before it had said so.
    assert SHOWN_ONCE in said + bare.run(INSTALL).stdout
    assert_serves(bare, FIRST)


@contextmanager
def work(machine: Machine) -> Iterator[None]:
    """Callers who go on meanwhile; all that is accepted is answered in the end, and no stream that
    began is cut."""
    wait_ready(machine)
    promises = Promises(machine).take(8, tokens=64)
    with promises.meanwhile() as callers:
        yield
    callers.assert_none_cut()
    promises.assert_kept()


def test_upgrade(machine: Machine) -> None:
    with work(machine):
        machine.run(*upgrade(NEXT))
    assert_serves(machine, NEXT)
    kept = machine.run("ls", "/opt/edge").stdout.split()
    assert FIRST in kept
    assert machine.run("ls", "-A", "/opt/edge").stdout.count(".trial") == 0
    back = machine.run(*upgrade(FIRST))  # the way back is the same
    assert f"Running edge {FIRST}" in back.stderr
    assert_serves(machine, FIRST)


def test_upgrade_to_a_version_that_does_not_run(machine: Machine) -> None:
    """It is not even put in use: the daemon goes on undisturbed."""
    wait_ready(machine)
    before = main_pid(machine)
    with work(machine):
        done = machine.run(*upgrade(CRASHES), check=False)
    assert done.returncode == 1
    assert "this version is broken" in done.stderr
    assert main_pid(machine) == before
    assert_serves(machine, FIRST)


def test_upgrade_to_a_version_that_fails_as_the_service(machine: Machine) -> None:
    with work(machine):
        done = machine.run(*upgrade(CRASHES_AS_SERVICE), check=False)
    assert done.returncode == 1
    assert f"edge {FIRST} runs again" in done.stderr
    assert_serves(machine, FIRST)
    machine.cut_power()
    assert_serves(machine.boot(), FIRST)


@pytest.mark.parametrize("moment", ["Installing edge", "Trying edge", "Going over", "In use"])
@pytest.mark.parametrize("version", [NEXT, CRASHES_AS_SERVICE])
def test_power_is_cut_while_it_is_upgraded(machine: Machine, version: str, moment: str) -> None:
    """It comes up with a version that answers, with nobody there; and the next try succeeds."""
    wait_ready(machine)
    promises = Promises(machine).take(6)
    said_until(machine, moment, *upgrade(version))
    machine.cut_power()
    machine.boot()
    promises.assert_kept()
    if version == CRASHES_AS_SERVICE:
        assert_serves(machine, FIRST)
    else:
        machine.run(*upgrade(version))
        assert_serves(machine, version)


def test_uninstall_and_come_back(machine: Machine) -> None:
    """Data that is kept is gone on with; without an answer nothing is removed."""
    wait_ready(machine)
    promises = Promises(machine).take(6)
    machine.run("bash", "-c", "echo '# mine' >>/etc/edge/edge.yaml")
    asked = machine.run("edge-install", "uninstall", check=False)
    assert asked.returncode == 1
    assert "--keep-data" in asked.stderr
    machine.run("edge-install", "uninstall", "--keep-data")
    assert (
        machine.run("bash", "-c", "ls -d /opt/edge /etc/systemd/system/edge*", check=False).stdout
        == ""
    )
    shown = machine.run(INSTALL).stdout
    assert SHOWN_ONCE not in shown
    assert "# mine" in machine.run("cat", "/etc/edge/edge.yaml").stdout
    promises.assert_kept()


def test_purge_leaves_nothing(machine: Machine) -> None:
    machine.run("edge-install", "uninstall", "--purge")
    machine.cut_power()
    machine.boot()
    left = "ls -d /opt/edge /var/lib/edge /etc/edge /etc/systemd/system/*edge* /usr/local/bin/edge"
    assert machine.run("bash", "-c", left, check=False).stdout == ""
    assert machine.run("id", "edge", check=False).returncode


def test_power_is_cut_while_it_is_uninstalled(machine: Machine) -> None:
    """The rest is removed by the same command from the bundle."""
    said_until(machine, "Removing", "edge-install", "uninstall", "--keep-data")
    machine.cut_power()
    machine.boot()
    machine.run(f"/media/{FIRST}/scripts/install.sh", "uninstall", "--keep-data")
    assert machine.run("ls", "-d", "/opt/edge", check=False).returncode
    machine.run(INSTALL)
    assert_serves(machine, FIRST)
