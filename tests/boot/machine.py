"""A machine with systemd in it: a Debian of its own in a container that has no network.

Its root is an overlay on a folder that stays as it is, so a machine costs nothing to make and
nothing to throw away. Power is cut by killing its first process, which takes all others along.

systemd boots there when whoever starts the container is in a control group of its own, in each
hierarchy of version 1; where the host is itself a systemd of version 2, none has to be made.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from daemon_process import poll

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("systemd", "unified", "memory", "pids", "cpu", "devices")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLONE_NEWNET = 0x40000000
INIT = """
[ ! -f /etc/emulated-cpuinfo ] || mount --bind /etc/emulated-cpuinfo /proc/cpuinfo
for name in memory pids cpu devices; do
    [ ! -d /sys/fs/cgroup/$name ] || mount -o remount,bind,rw /sys/fs/cgroup/$name
done
exec /lib/systemd/systemd
"""
"""What systemd-nspawn mounts for reading only, systemd could not set its units' limits in. And an
emulated machine must not see the processor that it is emulated by."""

PATIENCE = 900.0
"""Seconds: an installation on a machine that is busy with other things takes minutes."""

T = TypeVar("T")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Machine:
    """One container. Owns its overlay and its control groups; `end` takes both away."""

    def __init__(self, disks: list[Path], folder: Path, media: Path) -> None:
        """disks: the layers of a root file system, the last one below; they are only read.
        media: what is in the drive, at /media."""
        self.folder, self.media = folder, media
        self.root, upper = folder / "root", folder / "upper"
        for part in (self.root, upper, folder / "work"):
            part.mkdir(parents=True)
        self.disks = [upper, *disks]
        lower = ":".join(map(str, disks))
        layers = f"lowerdir={lower},upperdir={upper},workdir={folder / 'work'}"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)]
        subprocess.run(command, check=True)
        self.group = f"edge-test-{os.getpid()}-{folder.name}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[str]] = []
        self.leader = 0

    def boot(self) -> Machine:
        """Switch it on, and wait until everything has started that is to start."""
        self.switch_on()
        poll(self._is_up, f"booting: {self.folder / 'console'}", PATIENCE)
        return self

    def switch_on(self) -> None:
        """Just that: there is a first process, and it may still do anything."""
        if (CGROUPS / "systemd").is_dir():
            groups = [CGROUPS / name / self.group for name in CONTROLLERS]
            for group in groups:
                group.mkdir(exist_ok=True)
            join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        else:
            join = ""
        options = ["--quiet", "--register=no", "--keep-unit", "--private-network"]
        options += ["--kill-signal=SIGRTMIN+3", "--console=read-only"]
        options += [f"--bind-ro={self.media}:/media", f"--directory={self.root}"]
        options += ["/bin/sh", "-c", INIT]
        with open(self.folder / "console", "ab") as console:
            self._nspawn = subprocess.Popen(
                ["bash", "-c", f'{join}exec systemd-nspawn "$@"', "boot", *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.leader = poll(self._find_leader, "the first process")

    def console(self) -> str:
        """All that it has ever shown."""
        return (self.folder / "console").read_text(errors="replace")

    def _find_leader(self) -> int:
        """The process that is number 1 inside; outside it is a child of systemd-nspawn's."""
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, (self.folder / "console").read_text(errors="replace")
        waiting = [self._nspawn.pid]
        while waiting:
            children = Path(f"/proc/{waiting[0]}/task/{waiting.pop(0)}/children").read_text()
            for child in map(int, children.split()):
                try:
                    status = Path(f"/proc/{child}/status").read_text()
                except OSError:
                    continue
                numbers = next(ln for ln in status.splitlines() if ln.startswith("NSpid:"))
                if numbers.split()[-1] == "1" and len(numbers.split()) > 2:
                    return child
                waiting.append(child)
        return 0

    def _is_up(self) -> bool:
        said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return said in ("running", "degraded")

    def run(
        self, *command: str, check: bool = True, timeout: float = PATIENCE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._inside(environment), *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command that goes on meanwhile, and ends with the machine at the latest."""
        process = subprocess.Popen(
            [*self._inside({}), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def _inside(self, environment: dict[str, str]) -> list[str]:
        given = [f"{key}={value}" for key, value in environment.items()]
        enter = ["nsenter", "--target", str(self.leader), "--all"]
        return [
            *enter,
            "env",
            "-i",
            "--chdir=/",
            f"PATH={PATH}",
            "LANG=C.UTF-8",
            "HOME=/root",
            *given,
        ]

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit."""
        said = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        found = dict(line.split("=", 1) for line in said.stdout.splitlines())
        return [found[name] for name in names]

    def journal(self, unit: str = "edge") -> str:
        return self.run("journalctl", "--no-pager", "--boot", "--unit", unit).stdout

    def kill(self, number: signal.Signals, pid: int) -> None:
        """pid: as the machine itself counts."""
        self.run("bash", "-c", f"kill -{number.value} {pid}")

    def ask(
        self, method: str, path: str, body: Any = None, port: int = 8080, **headers: str
    ) -> Answer:
        """One HTTP request from the machine itself. Raises `OSError` where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.sock = self._connect(port)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, named)
            response = connection.getresponse()
            text = response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        said = json.loads(text) if text.startswith(("{", "[")) else text
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, said)

    def stream(self, path: str, body: Any) -> str | None:
        """What came of a stream, whole or not; None for one that was refused. Raises `OSError`
        where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=PATIENCE)
        connection.sock = self._connect(8080)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            return response.read().decode() if response.status == 200 else None
        except http.client.IncompleteRead as cut:
            return cut.partial.decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def listen(self) -> socket.socket:
        """A server's socket within the machine's network, for one that answers from outside."""
        return self._within(lambda: socket.create_server(("127.0.0.1", 0)))

    def _connect(self, port: int) -> socket.socket:
        return self._within(lambda: socket.create_connection(("127.0.0.1", port), PATIENCE))

    def _within(self, work: Callable[[], T]) -> T:
        """Within the machine's network. Namespaces belong to threads."""

        def enter() -> T:
            with open(f"/proc/{self.leader}/ns/net") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return work()

        return in_thread(enter)

    def cut_power(self) -> None:
        if self._nspawn is None:
            return
        if self.leader:
            os.kill(self.leader, signal.SIGKILL)
        self._nspawn.kill()
        self._nspawn.wait()
        self._nspawn, self.leader = None, 0
        while self._started:
            with self._started.pop() as process:
                process.kill()
        for name in CONTROLLERS:
            group = CGROUPS / name / self.group
            poll(lambda group=group: _remove_groups(group), f"{group} to be empty")

    def unmount(self) -> list[Path]:
        """Switch it off for good. Its disks may lie below those of other machines then."""
        self.cut_power()
        if self.root.is_mount():
            subprocess.run(["umount", str(self.root)], check=True)
        return self.disks

    def end(self) -> None:
        self.unmount()
        shutil.rmtree(self.folder, ignore_errors=True)


def in_thread(work: Callable[[], T]) -> T:
    """Do something that changes the thread which does it."""
    done: list[T] = []
    failed: list[OSError] = []

    def attempt() -> None:
        try:
            done.append(work())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _remove_groups(group: Path) -> bool:
    """Control groups go from the inside out, once their processes are gone."""
    if not group.is_dir():
        return True
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True
