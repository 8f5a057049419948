"""Tells callers whose prompt has waited for a second what its place in the queue is, or that it
waits for its model to be loaded.

One prompt after the other, so that a storm of them does not keep the ledger from its work.
"""

from __future__ import annotations

import time
from collections import deque

from edge.api.mqtt import reply
from edge.api.mqtt.connection import Connection
from edge.errors import JobNotFound
from edge.jobs.dispatcher import Dispatcher
from edge.loops import Loop

PATIENCE = 1.0
TICK = 0.25
MOST = 20_000
"""Prompts remembered; in a larger storm the oldest of them get no notice."""


class Waiting:
    """`run` it in a task, and `add` the ids of new jobs."""

    def __init__(self, dispatcher: Dispatcher, connection: Connection) -> None:
        self._dispatcher = dispatcher
        self._connection = connection
        self._jobs: deque[tuple[float, str]] = deque(maxlen=MOST)
        self._loop = Loop("mqtt waiting", self._turn, tick=TICK)

    def add(self, job_id: str) -> None:
        self._jobs.append((time.monotonic() + PATIENCE, job_id))

    async def run(self) -> None:
        await self._loop.run()

    def stop(self) -> None:
        self._loop.stop()

    async def _turn(self) -> None:
        while self._jobs and self._jobs[0][0] <= time.monotonic():
            _, job_id = self._jobs.popleft()
            try:
                await self._tell(job_id)
            except JobNotFound:
                continue

    async def _tell(self, job_id: str) -> None:
        position = await self._dispatcher.position(job_id)
        job = await self._dispatcher.get(job_id)
        link = self._connection.link
        if job.target is None or job.finished is not None or link is None:
            return
        target = reply.decode_target(job.target)
        if position is not None:
            notice = reply.queued(target.id, position)
        elif model := self._dispatcher.kinds.loading(job):
            notice = reply.loading(target.id, model)
        else:
            return
        link.publish_once(f"{target.topic}/status", notice, target.correlation)
