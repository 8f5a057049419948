"""Sets the power mode of a Jetson by NVIDIA's `nvpmodel`, and gives the one before it back.

nvpmodel asks whether to reboot where a mode cannot be taken up at once (other cores, another part
of the GPU), also for the mode that is set already. It finds nobody there to answer, and then leaves
the mode as it is; its exit code tells little, so what its status file says afterwards counts.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import msgspec

from edge.disk import write_atomically
from edge.errors import EdgeError
from edge.host import nvpmodel
from edge.host.nvpmodel import Mode

SECONDS = 60.0
"""For one change."""

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NoPowerModes(EdgeError):
    """There is nothing to choose from here."""

    code = "no_power_modes"


class ModeRefused(EdgeError):
    """The board is in another mode than was wanted."""

    code = "power_mode_refused"


class NeedsReboot(ModeRefused):
    """It can be taken up at the next start only."""


class Trying(msgspec.Struct):
    """What the file says that a run leaves behind when it is killed: ids of the modes that it has
    found and has set last."""

    before: int
    now: int


class PowerModes:
    """root: where the machine's trees hang. note: the file that outlives a run that is killed."""

    def __init__(self, root: Path, note: Path) -> None:
        """Raises `NoPowerModes`."""
        self._root = root
        self._note = note
        self._program = which("nvpmodel") or which("nvpmodel", path="/usr/sbin")
        self.all = nvpmodel.modes(root)
        if not self.all or self._program is None:
            raise NoPowerModes(
                "this machine has no power modes that nvpmodel sets, as Jetsons have them",
                hint="edge tune, without --power, finds the fastest settings of any machine",
            )

    @property
    def current(self) -> Mode:
        """Raises `NoPowerModes` where that is unknown."""
        found = nvpmodel.current(self._root)
        if found is None:
            raise NoPowerModes("which power mode is set is unknown", hint="sudo nvpmodel -q")
        return found

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Give back the mode that is set now, whatever happens meanwhile. Raises `ModeRefused`
        where it cannot be had again."""
        before = self.current
        try:
            yield
        finally:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
            try:
                self.set(before)
                self._note.unlink(missing_ok=True)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def try_out(self, mode: Mode, before: Mode) -> None:
        """Set it for a while. before: what is to be given back, also after a kill. Raises like
        `set`."""
        if mode.id == self.current.id:
            return
        self._write(Trying(before.id, mode.id))
        try:
            self.set(mode)
        except ModeRefused:
            self._write(Trying(before.id, self.current.id))
            raise

    def mend(self) -> str | None:
        """Give back what a run that was killed has left; returns what there is to tell of it.
        Raises like `set`."""
        try:
            left = msgspec.json.decode(self._note.read_bytes(), type=Trying)
        except (OSError, msgspec.DecodeError):
            return None
        before = next((mode for mode in self.all if mode.id == left.before), None)
        said = "an earlier run was killed"
        if before is not None and self.current.id == left.now != left.before:
            said += f" in the mode {self.current.name}; {before.name} is set again, as it was"
            self.set(before)
        else:
            said += "; the mode has been changed since, and stays"
        self._note.unlink(missing_ok=True)
        return said

    def _write(self, trying: Trying) -> None:
        self._note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._note, msgspec.json.encode(trying))

    def set(self, mode: Mode) -> None:
        """Raises `NeedsReboot` and `ModeRefused`; then the mode is as it was."""
        if self.current.id == mode.id:
            return
        assert self._program is not None
        try:
            # A session of its own: Ctrl-C must not break it off in the middle.
            done = subprocess.run(
                [self._program, "-m", str(mode.id)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=SECONDS,
                text=True,
                errors="replace",
            )
            said = done.stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            said = str(error)
        if self.current.id == mode.id:
            return
        by_hand = f"sudo nvpmodel -m {mode.id}"
        if "reboot" in said.lower():
            raise NeedsReboot(f"{mode.name} is taken up by a reboot only", hint=by_hand)
        last = said.splitlines()[-1] if said else "it says nothing"
        raise ModeRefused(
            f"nvpmodel did not set the mode {mode.name}: {last}",
            hint=f"run as root, or see what `{by_hand}` says",
        )
