"""The first boot, step by step. A step that is done is marked on the disk and never done again; one
that was cut or has failed is done again at the next boot, until all are done."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from firstboot import disk, durable, identity, partition, program, selftest
from firstboot.machine import STATE, Failed, Machine
from firstboot.marks import FINISHED, Marks
from firstboot.selftest import Finding


class Step(NamedTuple):
    """needs: steps without which this one is of no use. work: does it, tells what it has done, and
    raises `Failed`; done twice it does no harm."""

    name: str
    needs: tuple[str, ...]
    work: Callable[[], str]


class FirstBoot:
    """Owns the marks. `run` may be called at every boot."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._marks = Marks(machine.path(STATE))
        self._place = partition.folder(machine)
        self._findings: list[Finding] = []

    def steps(self) -> list[Step]:
        machine, place, marks = self._machine, self._place, self._marks
        return [
            Step("disk", (), lambda: disk.grow(machine)),
            Step("program", (), lambda: program.prepare(machine)),
            Step("settings", ("program",), lambda: program.configure(machine, place)),
            Step("name", ("program",), lambda: identity.name(machine, self._settings)),
            Step("certificates", ("name",), lambda: program.certificates(machine)),
            Step("service", ("certificates",), lambda: program.install(machine)),
            Step("power", ("program",), lambda: identity.power(machine, self._settings(), marks)),
            Step("self-test", ("service",), self._examine),
        ]

    def run(self) -> bool:
        """True when all is done. What there is to say lies on the boot partition then, and on the
        broker if one is there."""
        steps = self.steps()
        for number, step in enumerate(steps, 1):
            outcome = self._do(step)
            self._machine.tell(f"first boot {number}/{len(steps)}, {step.name}: {outcome.text}")
            self._findings.append(outcome)
        done = all(self._marks.has(step.name) for step in steps)
        self._report(done)
        if done:
            self._marks.set(FINISHED)
        return done

    def _do(self, step: Step) -> Finding:
        if self._marks.has(step.name):
            return Finding(step.name, "ok", self._marks.text(step.name))
        missing = [name for name in step.needs if not self._marks.has(name)]
        if missing:
            return Finding(step.name, "fail", f"waits for {missing[0]}")
        self._machine.tell(f"first boot: {step.name} …")
        try:
            text = step.work()
        except Failed as error:
            return Finding(step.name, "fail", f"failed: {error}", error.hint)
        if step.name == "settings":
            self._begin_anew_behind(step)
        self._marks.set(step.name, text)
        return Finding(step.name, "ok", text)

    def _begin_anew_behind(self, step: Step) -> None:
        """A file that was mended after the machine went on without it."""
        names = [one.name for one in self.steps()]
        later = [name for name in names[names.index(step.name) + 1 :] if self._marks.has(name)]
        if "service" in later:
            self._machine.run("systemctl", "stop", "edge.socket", "edge")
        for name in later:
            self._marks.clear(name)

    def _settings(self) -> dict[str, Any]:
        return program.settings(self._machine)

    def _examine(self) -> str:
        findings = selftest.examine(self._machine, self._settings())
        self._findings += findings
        bad = [one for one in findings if one.status == "fail"]
        if bad:
            raise Failed(f"{bad[0].name}: {bad[0].text}", bad[0].fix or "edge doctor")
        return f"passed, {len(findings)} checks"

    def _report(self, done: bool) -> None:
        """On the console, on the boot partition, for programs, and over MQTT."""
        state = "finished" if done else "failed"
        name = self._machine.text("etc/hostname")
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        heading = f"edge first boot of {name}: {state} ({at})"
        lines = [f"{one.status:<5} {one.name}: {one.text}" for one in self._findings]
        hints = [f"Try: {one.fix}" for one in self._findings if one.status == "fail" and one.fix]
        text = "\n".join([heading, "", *lines, *hints, ""])
        message = {"state": state, "at": at, "findings": [one._asdict() for one in self._findings]}
        durable.write(self._machine.path(STATE) / "result.json", json.dumps(message).encode())
        self._machine.tell(heading)
        for hint in hints:
            self._machine.tell(hint)
        try:
            partition.leave(self._place, partition.RESULT, text)
        except OSError as error:
            self._machine.tell(f"the boot partition takes no file: {error}")
        if self._marks.has("service"):
            try:
                selftest.publish(self._machine, message)
            except Failed as error:
                self._machine.tell(f"the result is on no broker: {error}")
