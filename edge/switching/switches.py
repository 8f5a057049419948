"""The switches of all names: at most one at a time for each, and what became of the last one.

Owned by the event loop.
"""

from __future__ import annotations

import asyncio

from edge.config.models import Switching
from edge.errors import BadModelFile, NotSwitchable, SwitchRunning
from edge.modelstore.gguf import read_header
from edge.modelstore.store import Installed, ModelStore
from edge.switching.switch import ENDED, Order, Progress, Switch, Traffic


class Switches:
    """`use` at any time between `run` and `stop`."""

    def __init__(self, store: ModelStore, traffic: Traffic, limits: Switching) -> None:
        self._store = store
        self._traffic = traffic
        self._limits = limits
        self._last: dict[str, Progress] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._over = asyncio.Event()

    async def run(self) -> None:
        await self._over.wait()

    async def stop(self) -> None:
        """Give up what is not done: the old versions are what the next start serves."""
        self._over.set()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def last(self, name: str) -> Progress | None:
        return self._last.get(name)

    async def use(self, order: Order) -> Progress:
        """Begin to serve that version of a name; follow it by `last`.

        Raises `ModelNotFound` for a name or a version that is not there,
        `SwitchRunning`, and `NotSwitchable` for a file that was copied in by hand, and for a model
        that embeds.
        """
        runner = self._traffic.runner(order.name)
        running = self._last.get(order.name)
        if running is not None and running.state not in ENDED:
            raise SwitchRunning(
                f"{order.name} is on its way to version {running.version}: {running.state}",
                retry_after=5,
            )
        new = self._store.numbered(order.name, order.version)
        old = self._served(order.name)
        switch = Switch(order, old, self._store, self._traffic, self._limits)
        if runner is not None and new.path == runner.path and runner.state == "ready":
            await asyncio.to_thread(self._store.activate, order.name, order.version, order.by)
            switch.progress.state = "done"
        else:
            await _refuse_vectors(order, new)
            task = asyncio.create_task(switch.run(), name=f"switch {order.name}")
            self._tasks[order.name] = task
        self._last[order.name] = switch.progress
        return switch.progress

    async def roll_back(self, name: str, anyway: bool, by: str | None) -> Progress:
        """The same for the version that the name meant before. Raises as `use`."""
        version = self._store.version_before(name)
        return await self.use(Order(name, version, anyway, by))

    def _served(self, name: str) -> Installed:
        """The version whose file is served, or would be."""
        runner = self._traffic.runner(name)
        path = self._store.path(name) if runner is None else runner.path
        for model in self._store.versions(name):
            if model.path == path:
                return model
        raise NotSwitchable(
            f"{name} is served from {path}, copied in by hand, which comes before its versions",
            param="name",
            hint=f"edge models import {path} --name {name} after moving it elsewhere",
        )


async def _refuse_vectors(order: Order, new: Installed) -> None:
    """Raises `NotSwitchable` for a model that embeds."""
    try:
        embeds = (await asyncio.to_thread(read_header, new.path)).embeds
    except BadModelFile:  # the switch tells of it
        return
    if embeds:
        raise NotSwitchable(
            f"{order.name} makes vectors, and those of two versions cannot be compared: what was "
            "kept of one is of no use with the other",
            param="name",
            hint=f"stop the daemon, `edge models use {order.name}@{order.version}`, start it, and "
            "make all vectors anew",
        )
