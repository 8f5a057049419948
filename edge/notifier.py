"""Tells systemd how the daemon is: loading, serving, reading its configuration, stopping.

The watchdog hears from here, and from nowhere else, so that it hears nothing when the event loop
does not turn, or when a worker that hangs could not be replaced. Owned by the event loop.
"""

from __future__ import annotations

import logging
from typing import Literal

from edge.appliance import Appliance
from edge.host import systemd
from edge.loops import Loop

logger = logging.getLogger("edge")

TICK = 5.0
"""Seconds between two looks, where the watchdog asks for nothing more frequent."""

EXTENSION_USEC = 60_000_000
"""How much more time systemd is asked for with each look until all is loaded. How long a load may
last is its runner's to say; a stop gets no more than `TimeoutStopSec`."""

Phase = Literal["loading", "serving", "stopping"]


class Notifier:
    """`run` it in a task. `READY=1` goes out with `ready`, and only then."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._phase: Phase = "loading"
        self._shown = ""
        self._stuck_shown = False
        watchdog = systemd.watchdog_seconds()
        tick = TICK if watchdog is None else min(TICK, watchdog / 3)
        self._loop = Loop("notifications", self._turn, tick=tick)

    async def run(self) -> None:
        await self._loop.run()

    def ready(self) -> None:
        if self._phase == "stopping":
            return
        self._phase = "serving"
        self._tell("READY=1")

    def reloading(self) -> None:
        """Between this and `ready`."""
        systemd.notify(f"RELOADING=1\n{systemd.monotonic_usec()}")

    def stopping(self) -> None:
        self._phase = "stopping"
        self._tell("STOPPING=1")

    async def _turn(self) -> None:
        states = []
        if self._phase == "loading":
            states.append(f"EXTEND_TIMEOUT_USEC={EXTENSION_USEC}")
        if not self._stuck():
            states.append("WATCHDOG=1")
        self._tell(*states)

    def _stuck(self) -> bool:
        stuck = self._appliance.stuck()
        if stuck and not self._stuck_shown:
            logger.error("%s hangs and cannot be ended: the watchdog hears nothing", stuck)
        self._stuck_shown = stuck is not None
        return self._stuck_shown

    def _tell(self, *states: str) -> None:
        """These, and the status line where it has changed."""
        status = f"STATUS={self._status()}"
        told = list(states)
        if status != self._shown:
            told.append(status)
            self._shown = status
        if told:
            systemd.notify("\n".join(told))

    def _status(self) -> str:
        service = self._appliance.service
        if self._phase == "stopping":
            return f"draining {service.live} requests"
        if self._phase == "loading":
            return self._loading()
        waiting = sum(runner.waiting for runner in self._appliance.fleet.runners)
        parts = [
            f"serving {', '.join(self._appliance.fleet.loaded) or 'what is asked for'}",
            f"{service.live} live, {waiting} waiting, {self._appliance.dispatcher.queued} queued",
        ]
        reloads = service.reloads
        if reloads.error is not None:
            parts.append(f"configuration refused: {reloads.error}")
        if reloads.needs_restart:
            parts.append(f"needs a restart: {', '.join(reloads.needs_restart)}")
        return "; ".join(parts).replace("\n", " ")

    def _loading(self) -> str:
        fleet = self._appliance.fleet
        names = fleet.rules.at_start
        left = [name for name in names if name not in fleet.loaded]
        return f"loading {', '.join(left)} ({len(names) - len(left)} of {len(names)} loaded)"
