"""`edge update` on a booted machine: from a server outside and from a folder, to versions that
answer and to some that do not, with the power cut and the terminal closed in between."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import CRASHES, CRASHES_AS_SERVICE, FIRST, NEXT
from daemon_process import poll
from machine import PATIENCE, Machine
from promises import Promises
from range_server import RangeServer
from test_booted_installation import assert_serves, in_use, said_until
from test_booted_service import main_pid, wait_ready

SOME = 30_000_000
"""Bytes: well into the bundle."""


def stick(version: str) -> str:
    return f"/media/sticks/{version}"


def bundle(media: Path, version: str) -> bytes:
    (path,) = (media / "sticks" / version).glob("*.tar")
    return path.read_bytes()


@contextmanager
def served(machine: Machine, content: bytes) -> Iterator[RangeServer]:
    with RangeServer(content, listener=machine.listen()) as server:
        yield server
        server.go_on.set()


def state(machine: Machine) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(machine.run("edge", "update", "--json").stdout)
    return said


def outcomes(machine: Machine) -> list[tuple[str, str]]:
    return [(one["version"], one["outcome"]) for one in state(machine)["updates"]]


def assert_told(machine: Machine, what: str) -> None:
    """By the daemon, in its audit log and its status, without anybody having asked."""

    def noted() -> bool:
        shown = machine.run("edge", "audit", "show", "-n", "9999", "--json").stdout
        details = [one.get("detail", "") for one in json.loads(shown) if one["what"] == "update"]
        return any(detail.startswith(what) for detail in details)

    poll(noted, f"{what!r} in the audit log", PATIENCE)
    assert "last update: " in machine.run("edge", "status").stdout


def test_over_http_and_back(machine: Machine, media: Path) -> None:
    """Over a network that drops it twice, while it works; nothing that was accepted is lost."""
    wait_ready(machine)
    promises = Promises(machine).take(8, tokens=64)
    with served(machine, bundle(media, NEXT)) as server:
        checked = machine.run("edge", "update", "--check", server.url).stdout
        assert "It may be installed here" in checked
        server.cuts = [10**9, SOME, SOME]
        done = machine.run("edge", "update", server.url)
        assert f"edge {NEXT} is in use; {FIRST} is kept: edge update --back" in done.stdout
        assert [bool(asked) for asked in server.asked[-3:]] == [True, True, True]
    assert_serves(machine, NEXT)
    promises.take(8, tokens=64)
    assert outcomes(machine) == [(NEXT, "installed")]
    assert_told(machine, f"edge {FIRST} to {NEXT}: installed")
    assert "nothing to do" in machine.run("edge", "update", stick(NEXT)).stdout
    machine.run("edge", "update", "--back")
    assert_serves(machine, FIRST)
    promises.assert_kept()
    assert outcomes(machine) == [(NEXT, "installed"), (FIRST, "installed")]


def test_from_a_stick_after_a_broken_one(machine: Machine) -> None:
    """A version that fails only as the service goes back by itself, and is not tried again."""
    wait_ready(machine)
    promises = Promises(machine).take(8, tokens=64)
    done = machine.run("edge", "update", stick(CRASHES_AS_SERVICE), check=False)
    assert done.returncode == 1
    assert f"Error: edge {CRASHES_AS_SERVICE} did not start as the service" in done.stderr
    assert_serves(machine, FIRST)
    promises.assert_kept()
    # The form is the same, so the ledger is, too.
    assert machine.run("ls", "/var/lib/edge/after-upgrade", check=False).returncode
    assert outcomes(machine) == [(CRASHES_AS_SERVICE, "went back")]
    assert_told(machine, f"edge {FIRST} to {CRASHES_AS_SERVICE}: went back")
    again = machine.run("edge", "update", stick(CRASHES_AS_SERVICE), check=False)
    assert "did not answer here at" in again.stderr
    machine.run("edge", "update", stick(NEXT))
    assert_serves(machine, NEXT)
    assert outcomes(machine)[1:] == [(NEXT, "installed")]


def test_a_version_that_does_not_run(machine: Machine) -> None:
    """It is not even put in use; the daemon notices nothing."""
    wait_ready(machine)
    before = main_pid(machine)
    done = machine.run("edge", "update", stick(CRASHES), check=False)
    assert done.returncode == 1
    assert "this version is broken" in done.stderr
    assert main_pid(machine) == before
    assert_serves(machine, FIRST)
    assert outcomes(machine) == [(CRASHES, "went back")]


def test_what_is_not_signed_is_refused(machine: Machine, media: Path) -> None:
    """By the installer that is there too; and whoever is not root is told so."""
    wait_ready(machine)
    altered = bytearray(bundle(media, NEXT))
    altered[SOME] ^= 1
    with served(machine, bytes(altered)) as server:
        done = machine.run("edge", "update", server.url, check=False)
        assert "it was altered, damaged or cut" in done.stderr
    folder = machine.run("edge-install", "upgrade", "--offline", f"/media/{NEXT}", check=False)
    assert "a bundle that is unpacked cannot be checked" in folder.stderr
    user = machine.run(
        "setpriv", "--reuid=nobody", "--clear-groups", "edge", "update", stick(NEXT), check=False
    )
    assert "has to be root" in user.stderr
    assert in_use(machine) == FIRST
    assert outcomes(machine) == []
    file = f"{stick(NEXT)}/edge-{NEXT}-signed.tar"
    machine.run("edge-install", "upgrade", "--offline", file)
    assert_serves(machine, NEXT)


def test_power_is_cut_while_it_is_fetched(machine: Machine, media: Path) -> None:
    """The next command fetches the rest."""
    wait_ready(machine)
    promises = Promises(machine).take(4)
    content = bundle(media, NEXT)
    with served(machine, content) as server:
        machine.run("edge", "update", "--check", server.url)
        server.held_at = SOME
        process = machine.start("edge", "update", server.url)
        assert server.holds.wait(PATIENCE)
        machine.run("sync")
        machine.cut_power()
    assert process.poll() is not None
    machine.boot()
    promises.assert_kept()
    assert_serves(machine, FIRST)
    assert outcomes(machine) == []
    with served(machine, content) as server:
        machine.run("edge", "update", server.url)
        (rest,) = (asked for asked in server.asked if asked)
        assert int(rest[6:-1]) > SOME // 2
    assert_serves(machine, NEXT)


@pytest.mark.parametrize(
    ("version", "moment"),
    [
        (NEXT, "Installing edge"),
        (NEXT, "Trying edge"),
        (NEXT, "In use"),
        (CRASHES_AS_SERVICE, "In use"),
    ],
)
def test_power_is_cut_while_it_is_installed(machine: Machine, version: str, moment: str) -> None:
    """It comes up with one that answers, says what became of the other, and takes the next."""
    wait_ready(machine)
    promises = Promises(machine).take(4)
    said_until(machine, moment, "edge", "update", stick(version))
    machine.cut_power()
    machine.boot()
    promises.assert_kept()
    wait_ready(machine)
    if version == CRASHES_AS_SERVICE:
        assert_serves(machine, FIRST)
        assert outcomes(machine) == [(version, "went back")]
        assert machine.run("edge", "update", stick(version), check=False).returncode == 1
    elif moment == "In use":
        assert_serves(machine, NEXT)
        assert outcomes(machine) == [(NEXT, "installed")]
    else:
        assert_serves(machine, FIRST)
        assert outcomes(machine) == [(NEXT, "interrupted")]
        machine.run("edge", "update", stick(NEXT))
    assert in_use(machine) == (FIRST if version == CRASHES_AS_SERVICE else NEXT)


def test_the_terminal_is_closed(machine: Machine) -> None:
    """The installer goes on to its end; meanwhile nobody else may begin."""
    wait_ready(machine)
    process = machine.start("edge", "update", stick(NEXT))
    assert process.stdout is not None
    for line in process.stdout:
        if "Installing edge" in line:
            break
    pid = int(machine.run("pgrep", "--full", "--oldest", "edge update").stdout)
    machine.kill(signal.SIGKILL, pid)
    second = machine.run("edge", "update", stick(NEXT), check=False)
    assert "another update is under way" in second.stderr
    assert outcomes(machine) == [(NEXT, "runs")]
    poll(lambda: outcomes(machine) == [(NEXT, "installed")], "the end", PATIENCE)
    assert_serves(machine, NEXT)


def test_two_at_once(machine: Machine) -> None:
    """One installs, the other is refused; the hand's installer too."""
    wait_ready(machine)
    said_until(machine, "Installing edge", "edge", "update", stick(NEXT))
    refused = machine.run("edge", "update", stick(NEXT), check=False)
    assert "another update is under way" in refused.stderr
    by_hand = machine.run(f"/media/{NEXT}/scripts/install.sh", "upgrade", check=False)
    assert "another installation is under way" in by_hand.stderr
    poll(lambda: outcomes(machine) == [(NEXT, "installed")], "the end", PATIENCE)
    assert_serves(machine, NEXT)
