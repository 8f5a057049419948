"""The machine that starts for the first time: its files and commands, all below one root that
tests put elsewhere. Nothing here decides anything."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

BASE = "opt/edge"
CONFIG = "etc/edge/edge.yaml"
CREDENTIALS = "etc/edge/credentials"
BUNDLE = "usr/share/edge/bundle"
STATE = "var/lib/edge-firstboot"


class Failed(Exception):
    """A step did not do what it is for. hint: what somebody who reads the console can do."""

    def __init__(self, message: str, hint: str = "journalctl -u edge-firstboot") -> None:
        super().__init__(message)
        self.hint = hint


class Machine:
    """root: where `/` is. console: is told what goes on. What is for the journal goes to stdout."""

    def __init__(self, root: Path, console: Path) -> None:
        self.root = root
        self._console = console

    def path(self, name: str) -> Path:
        return self.root / name

    def text(self, name: str) -> str:
        """Of a file, the kernel's too; empty where there is none."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return ""

    def tell(self, line: str) -> None:
        """To whoever stands before it, and into the journal."""
        self.note(line)
        self.show(f"edge: {line}\r\n")

    def note(self, text: str) -> None:
        """In the journal alone."""
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """On the console and nowhere else. One that takes nothing stops nothing."""
        try:
            # It must neither become ours nor make us wait for whoever holds a serial line.
            descriptor = os.open(
                self._console, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK
            )
        except OSError:
            return
        try:
            os.write(descriptor, text.encode())
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def run(
        self,
        *command: str | Path,
        patience: float = 120.0,
        answer: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What a command prints on stdout. Raises `Failed` where it fails, is not there or takes
        longer than `patience` seconds; what it has said then is in the journal."""
        words = [str(word) for word in command]
        try:
            done = subprocess.run(
                words,
                input=answer,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise Failed(f"{words[0]}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise Failed(f"{words[0]} took longer than {patience:.0f} s") from None
        if done.returncode:
            self.note(done.stdout + done.stderr)
            raise _failure(words[0], done.stderr.strip() or done.stdout.strip(), done.returncode)
        return done.stdout

    def follow(self, *command: str | Path, patience: float) -> None:
        """A command that takes minutes: its stderr goes to the journal and the headlines of it to
        the console; its stdout, which may hold secrets, to the console alone."""
        words = [str(word) for word in command]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"{words[0]}: {error.strerror}") from None
        secrets = threading.Thread(target=self._show_all, args=(process.stdout,))
        secrets.start()
        # With all that it has started, or a child would hold the pipes open for ever.
        deadline = threading.Timer(patience, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        complaints = ""
        assert process.stderr is not None
        with process:
            for line in process.stderr:
                if line.startswith("==> "):
                    self.tell(line[4:].strip())
                else:
                    self.note(line)
                if line.startswith(("Error: ", "Try: ")):
                    complaints += line
            secrets.join()
        in_time = deadline.is_alive()
        deadline.cancel()
        if not in_time:
            raise Failed(f"{words[0]} took longer than {patience:.0f} s")
        if process.returncode:
            raise _failure(words[0], complaints.strip(), process.returncode)

    def _show_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.show(line.rstrip("\n") + "\r\n")


def _failure(command: str, said: str, code: int) -> Failed:
    """Of our own commands, which say `Error:` and `Try:`, or of any."""
    match = re.search(r"^Error: (.*?)(?:^Try: (.*))?\Z", said, re.M | re.S)
    if match is None:
        last = said.splitlines()[-1:] or [f"exit code {code}"]
        return Failed(f"{Path(command).name}: {last[0]}")
    hint = [] if match[2] is None else [match[2].strip()]
    return Failed(" ".join(match[1].split()), *hint)
