"""All upstreams of the configuration: each has a task, and they change while the others serve.

Owned by the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

from edge.cloud.throttle import Throttle
from edge.cloud.upstream import Upstream
from edge.config import answering
from edge.metrics import Metrics


class Upstreams(Mapping[str, Upstream]):
    """`run` it in a task. throttle: for kept requests, which all upstreams share."""

    def __init__(
        self,
        settings: Mapping[str, answering.Upstream],
        metrics: Metrics,
        throttle: Throttle | None = None,
    ) -> None:
        self._metrics = metrics
        self._throttle = throttle
        self._watchers: list[Callable[[], None]] = []
        self._tasks: dict[asyncio.Task[None], Upstream] = {}
        self._changed = asyncio.Event()
        self._stopped = False
        self._all = {name: self._made(name, one) for name, one in settings.items()}

    def __getitem__(self, name: str) -> Upstream:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever one of them may be asked again, also of those to come."""
        self._watchers.append(changed)
        for upstream in self.values():
            upstream.watch(changed)

    def replace(self, settings: Mapping[str, answering.Upstream]) -> None:
        """From now on these are asked. One whose settings are the same keeps its books; a call of
        one that is gone goes on to its end."""
        before = self._all
        self._all = {
            name: before[name]
            if name in before and before[name].settings == one
            else self._made(name, one)
            for name, one in settings.items()
        }
        for name, upstream in before.items():
            if self._all.get(name) is not upstream:
                upstream.retire()
            if name not in self._all:
                self._metrics.forget_upstream(name)
        self._changed.set()

    async def run(self) -> None:
        """Keep a task for each of them until `stop`. Raises what one of them fails with."""
        try:
            while not self._stopped:
                self._changed.clear()
                await self._keep_up()
                await self._something()
        finally:
            await self._end(list(self._tasks))

    async def stop(self) -> None:
        """`run` returns soon after. Calls under way are closed by those who asked."""
        self._stopped = True
        self._changed.set()
        for upstream in list(self._tasks.values()):
            await upstream.stop()

    async def _something(self) -> None:
        """Wait for a change, or for a task that ends."""
        change = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({change, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()

    async def _keep_up(self) -> None:
        """Begin with those that are new, end those that are gone."""
        for task, upstream in list(self._tasks.items()):
            if upstream not in self._all.values():
                await self._end([task])
            elif task.done() and not self._stopped:
                task.result()
                raise RuntimeError(f"the task of upstream {upstream.name} ended by itself")
        running = list(self._tasks.values())
        for name, upstream in self.items():
            if upstream not in running and not self._stopped:
                task = asyncio.create_task(upstream.run(), name=f"upstream {name}")
                self._tasks[task] = upstream

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            await self._tasks.pop(task).stop()
            await asyncio.gather(task, return_exceptions=True)

    def _made(self, name: str, settings: answering.Upstream) -> Upstream:
        upstream = Upstream(name, settings, self._metrics, self._throttle)
        for changed in self._watchers:
            upstream.watch(changed)
        return upstream
