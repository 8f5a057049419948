"""One update, from a source to its outcome. Blocking; as root.

Whoever has the lock is the only one. The installer is the bundle's own. It runs in a session of
its own, with its words in a file, and inherits the lock: a terminal that closes neither ends it
half-way nor lets a second one begin.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from edge.bundles.keys import TrustedKeys
from edge.bundles.reader import named
from edge.errors import BundleRefused, UpdateFailed, UpdateRunning
from edge.host.rootslots import RootSlots
from edge.modelstore.workspace import Progress, unwatched
from edge.updates.fit import Machine, check_machine, check_version
from edge.updates.manifest import Head, order
from edge.updates.reader import Source, read_head
from edge.updates.record import Entry, History, begun
from edge.updates.slots import Slots, number
from edge.updates.source import FileSource, bundles_in
from edge.updates.staging import Staging

Say: TypeAlias = Callable[[str], None]
"""Hears what the installer says."""

TRIES, PAUSE = 10, 0.2
"""For the lock: who only looks has it for an instant."""


class Plan(msgspec.Struct, frozen=True):
    """What an update would do. missing_bytes: of the bundle that are not here from an earlier try.

    in_use: that very build is in use, and there is nothing to do.
    """

    source: Source
    head: Head
    before: str
    missing_bytes: int
    in_use: bool


class Rules(msgspec.Struct, frozen=True):
    """here: what bundles have to be for. root_slots: of a Jetson that has two.

    allow_downgrade: also an older version. retry: also one that did not answer before.
    """

    here: Machine
    root_slots: RootSlots | None = None
    allow_downgrade: bool = False
    retry: bool = False


class Updater:
    def __init__(self, slots: Slots, trusted: TrustedKeys | None, rules: Rules) -> None:
        """trusted: None where nothing is to be read, but a way back gone."""
        self.slots = slots
        self.history = History(slots)
        self._trusted = trusted
        self._rules = rules
        self._staging = Staging(slots.base / ".update")

    @contextmanager
    def alone(self) -> Iterator[int]:
        """The lock, as the file that has it. Raises `UpdateRunning`, `OSError`."""
        handle = os.open(self.history.lock, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            for left in reversed(range(TRIES)):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not left:
                        raise UpdateRunning(
                            "another update is under way", hint="edge update shows how far it is"
                        ) from None
                    time.sleep(PAUSE)
            yield handle
        finally:
            os.close(handle)

    def plan(self, source: Source) -> Plan:
        """Changes nothing. Raises `BundleRefused`, `FetchFailed`, `UpdateFailed`, `OSError`."""
        assert self._trusted is not None
        head, current = read_head(source, self._trusted), self.slots.current
        with named(source.name):
            check_machine(head.software, self._rules.here)
            if head.software.identity == self.slots.identity(current):
                return Plan(source, head, current, 0, True)
            check_version(head.software, self.slots, self._rules.allow_downgrade)
            if not self._rules.retry:
                self._check_tried(head)
        self._check_root_slots()
        self._staging.require(head)
        return Plan(source, head, current, self._staging.missing(head), False)

    def plan_newest(self, folder: Path) -> Plan:
        """Of all in a folder that may be installed here the newest. Raises what `plan` does."""
        plans, refusals = list[Plan](), list[BundleRefused]()
        for path in bundles_in(folder):
            try:
                plans.append(self.plan(FileSource(path)))
            except BundleRefused as refusal:
                refusals.append(refusal)
        if plans:
            return max(plans, key=_age)
        if len(refusals) == 1:
            raise refusals[0]
        told = "; ".join(refusal.message for refusal in refusals)
        raise BundleRefused(
            f"nothing in {folder} can be installed here: {told or 'there is no edge-*.tar'}",
            hint="scripts/make-offline-bundle --sign KEY makes one",
        )

    def fetch(self, plan: Plan, progress: Progress = unwatched) -> None:
        """Needs the lock. Brings all of the bundle here, or the rest of it.

        Raises `BundleRefused`, `FetchFailed`, `OSError`.
        """
        self._staging.fetch(plan.source, plan.head, progress)

    def install(self, plan: Plan, lock: int, say: Say) -> Entry:
        """Needs the lock, and what `fetch` brought. Returns how it ended, if it ended well.

        Raises `UpdateFailed` otherwise, `OSError`.
        """
        software = plan.head.software
        entry = msgspec.structs.replace(
            begun(number(plan.before), software.version, plan.source.name),
            key=plan.head.key,
            identity=software.identity,
            digest=plan.head.digest,
        )
        installer = self._staging.root / "scripts" / "install.sh"
        ended = self._run(entry, [str(installer), "upgrade"], lock, say)
        self._staging.clear()
        return ended

    def back(self, lock: int, say: Say) -> Entry:
        """Needs the lock. To the version before; the same, but nothing is fetched."""
        before = self.slots.before
        if before is None:
            raise UpdateFailed(
                "there is no version before this one here", hint="edge update BUNDLE installs one"
            )
        self._check_root_slots()
        current = self.slots.current
        entry = msgspec.structs.replace(
            begun(number(current), number(before), "here"),
            identity=self.slots.identity(before) or "",
        )
        # That of the version in use: the one before may be too old to know the word.
        return self._run(entry, [str(self.slots.installer(current)), "back"], lock, say)

    def _check_tried(self, head: Head) -> None:
        """Or a timer would try for ever what cannot answer here."""
        tried = self.history.failed_before(head.digest)
        if tried is not None:
            raise BundleRefused(
                f"edge {tried.version} did not answer here at {tried.began.isoformat()}:"
                f" {tried.reason or 'the machine went back by itself'}",
                hint="to try it once more: --retry",
            )

    def _check_root_slots(self) -> None:
        slots = self._rules.root_slots
        if slots is not None and slots.current != slots.active:
            raise UpdateFailed(
                f"the next boot takes the root file system {slots.active}, and this is"
                f" {slots.current}: what is installed now would stay behind",
                hint="reboot first; or stay here: nvbootctrl -t rootfs set-active-boot-slot"
                f" {'AB'.index(slots.current)}",
            )

    def _run(self, entry: Entry, command: list[str], lock: int, say: Say) -> Entry:
        self.history.begin(entry)
        status, lines = self._installed(command, lock, say)
        if status == 0:
            return self.history.end()
        reason = _last(lines, "Error: ") or f"the installer ended with exit code {status}"
        if self.history.end("failed", reason).outcome == "went back":
            self._staging.clear()
        raise UpdateFailed(reason, hint=_last(lines, "Try: ") or f"see {self._log}")

    @property
    def _log(self) -> Path:
        return self.slots.base / "update.log"

    def _installed(self, command: list[str], lock: int, say: Say) -> tuple[int, list[str]]:
        """Exit code and words of the installer, which goes on if this process does not."""
        with open(self._log, "wb") as out:
            installer = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[lock],
                start_new_session=True,
            )
        lines = list[str]()
        for line in _follow(self._log, installer):
            lines.append(line)
            say(line)
        return installer.wait(), lines


def _age(plan: Plan) -> tuple[tuple[int, ...], datetime.datetime]:
    return order(plan.head.software.version), plan.head.software.made_at


def _follow(log: Path, writer: subprocess.Popen[bytes]) -> Iterator[str]:
    """The lines of a file as they come, until who writes it has ended."""
    rest = ""
    with open(log, encoding="utf-8", errors="replace") as file:
        while True:
            ended = writer.poll() is not None
            *lines, rest = (rest + file.read()).split("\n")
            yield from lines
            if ended:
                if rest:
                    yield rest
                return
            time.sleep(PAUSE)


def _last(lines: list[str], mark: str) -> str:
    return next((line[len(mark) :] for line in reversed(lines) if line.startswith(mark)), "")
