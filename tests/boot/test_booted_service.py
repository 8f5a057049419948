"""The service in a booted systemd: what it may do, and what it survives."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable

import pytest
from daemon_process import poll
from machine import PATIENCE, Machine
from promises import Promises

EVERYTHING_STOPPED = 600.0
"""Seconds: the watchdog's minute, and what a hung worker is given."""


def main_pid(machine: Machine) -> int:
    return int(machine.show("edge", "MainPID")[0])


def worker_pid(machine: Machine) -> int:
    said = machine.run("pgrep", "--parent", str(main_pid(machine)), "--full", "worker", check=False)
    return int(said.stdout.split()[0]) if said.stdout.split() else 0


def wait_ready(machine: Machine) -> None:
    def ready() -> bool:
        try:
            return machine.ask("GET", "/health/ready").status == 200
        except OSError:
            return False

    poll(ready, "ready", PATIENCE)


def test_runs_confined(machine: Machine) -> None:
    """It answers, as a user of its own, with no capabilities, a filter and limits."""
    wait_ready(machine)
    status = machine.run("cat", f"/proc/{worker_pid(machine)}/status").stdout
    facts = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.M))
    assert facts["CapEff"] == facts["CapBnd"] == "0" * 16
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert facts["Uid"].split()[0] == machine.run("id", "-u", "edge").stdout.strip()
    limit, state = machine.show("edge", "MemoryMax", "SubState")
    assert limit.isdecimal()
    assert state == "running"
    assert Promises(machine).take(2).assert_kept() is None


def test_daemon_is_killed(machine: Machine) -> None:
    promises = Promises(machine).take(6)
    before = main_pid(machine)
    machine.kill(signal.SIGKILL, before)
    poll(lambda: main_pid(machine) not in (0, before), "another daemon", PATIENCE)
    promises.assert_kept()


def test_daemon_is_killed_between_prompts_of_the_broker(machine: Machine) -> None:
    """Each that the broker has taken is answered; once or twice, but never not at all."""
    wait_ready(machine)
    machine.run("mosquitto_passwd", "-b", "/etc/mosquitto/edge.passwords", "line1", "secret")
    machine.run("systemctl", "reload", "mosquitto")
    login = ("-h", "127.0.0.1", "-u", "line1", "-P", "secret", "-q", "1")
    listener = machine.start(
        *(
            "mosquitto_sub",
            *login,
            "-t",
            "line1/reply/#",
            "-t",
            "edge/+/status",
            "-F",
            "%t",
            "-W",
            "900",
        )
    )
    assert listener.stdout is not None
    assert listener.stdout.readline().endswith("/status\n")  # its session is there, and ours
    device = machine.run("hostname").stdout.strip()
    wanted = {f"line1/reply/{number}" for number in range(6)}
    for topic in sorted(wanted):
        prompt = json.dumps({"prompt": "Count.", "reply_to": topic, "max_tokens": 32})
        machine.run("mosquitto_pub", *login, "-t", f"edge/{device}/chat", "-m", prompt)
    machine.kill(signal.SIGKILL, main_pid(machine))
    for line in listener.stdout:
        wanted.discard(line.strip())
        if not wanted:
            break
    assert not wanted


def test_worker_is_killed(machine: Machine) -> None:
    promises = Promises(machine).take(6)
    before, daemon = worker_pid(machine), main_pid(machine)
    machine.kill(signal.SIGKILL, before)
    promises.assert_kept()
    assert worker_pid(machine) != before
    assert main_pid(machine) == daemon


def test_worker_stops_moving(machine: Machine) -> None:
    """It is found by whoever watches over it, and replaced; the daemon goes on."""
    promises = Promises(machine).take(6, tokens=200)
    before, daemon = worker_pid(machine), main_pid(machine)
    machine.kill(signal.SIGSTOP, before)
    poll(lambda: worker_pid(machine) not in (0, before), "another worker", EVERYTHING_STOPPED)
    promises.assert_kept()
    assert main_pid(machine) == daemon


def test_daemon_stops_moving(machine: Machine) -> None:
    """systemd's watchdog ends it and starts another."""
    promises = Promises(machine).take(6)
    before = main_pid(machine)
    machine.kill(signal.SIGSTOP, before)
    poll(lambda: main_pid(machine) not in (0, before), "another daemon", EVERYTHING_STOPPED)
    promises.assert_kept()
    assert "Watchdog timeout" in machine.journal()


GROUP = "system.slice/edge.service/cgroup.procs"

HOG = """
import os, sys
worker, group = sys.argv[1:]
open('/proc/self/oom_score_adj', 'w').write('-1000')
open(group, 'w').write(str(os.getpid()))
taken = []
while os.path.exists(f'/proc/{worker}'):
    assert len(taken) < 200, 'nobody was killed'
    taken.append(b'x' * 20_000_000)
"""
"""Takes memory of the service's share until the worker is gone, 4 GB at most; the kernel must not
choose it."""


def test_memory_runs_out(machine: Machine) -> None:
    """The kernel takes the worker and not the daemon, which starts another."""
    wait_ready(machine)
    machine.run("systemctl", "set-property", "--runtime", "edge", "MemoryMax=3G")
    promises = Promises(machine).take(6)
    before, daemon = worker_pid(machine), main_pid(machine)
    group = machine.run(
        "bash", "-c", f"cd /sys/fs/cgroup; [ ! -d memory ] || cd memory; ls $PWD/{GROUP}"
    )
    machine.run("/opt/edge/current/bin/python", "-c", HOG, str(before), group.stdout.strip())
    poll(lambda: worker_pid(machine) not in (0, before), "another worker", PATIENCE)
    promises.assert_kept()
    assert main_pid(machine) == daemon


def test_configuration_is_read_anew_under_load(machine: Machine) -> None:
    wait_ready(machine)
    daemon, worker = main_pid(machine), worker_pid(machine)
    promises = Promises(machine)
    with promises.meanwhile():
        for waiting in range(40, 50):
            text = f"limits: {{max_waiting: {waiting}}}"
            machine.run("bash", "-c", f"echo '{text}' >>/etc/edge/edge.yaml")
            machine.run("systemctl", "reload", "edge")
            machine.run("sed", "-i", "/^limits/d", "/etc/edge/edge.yaml")
    promises.assert_kept()
    assert (main_pid(machine), worker_pid(machine)) == (daemon, worker)


def test_restart_refuses_nobody(machine: Machine) -> None:
    """The socket is systemd's: who comes meanwhile waits."""
    wait_ready(machine)
    done, statuses = threading.Event(), set[int]()

    def ask() -> None:
        while not done.is_set():
            statuses.add(machine.ask("GET", "/health").status)

    callers = [Caller(ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    machine.run("systemctl", "restart", "edge")
    done.set()
    for caller in callers:
        caller.join()
        assert caller.failure is None
    assert statuses == {200}


class Caller(threading.Thread):
    """Keeps what it failed with."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work
        self.failure: OSError | None = None

    def run(self) -> None:
        try:
            self.work()
        except OSError as error:
            self.failure = error


def test_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    wait_ready(machine)
    machine.run("bash", "-c", "echo 'nonsense: 1' >>/etc/edge/edge.yaml")
    machine.run("systemctl", "stop", "edge.socket", "edge")
    assert machine.run("systemctl", "start", "edge", check=False).returncode
    assert machine.show("edge", "ActiveState", "ExecMainStatus", "NRestarts") == [
        "failed",
        "2",
        "0",
    ]
    machine.run("sed", "-i", "/^nonsense/d", "/etc/edge/edge.yaml")
    machine.run("systemctl", "start", "edge.socket", "edge")
    wait_ready(machine)


@pytest.mark.parametrize("times", [3])
def test_power_is_cut_at_work(machine: Machine, times: int) -> None:
    promises = Promises(machine)
    for _ in range(times):
        wait_ready(machine)
        promises.take(4)
        machine.cut_power()
        machine.boot()
    promises.assert_kept()
