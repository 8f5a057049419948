"""The answer of a kept request for one who listens while it is computed.

What has been sent stands also if the appliance dies: the last piece goes out when the whole answer
is on disk, and not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from edge.errors import InternalError, from_code
from edge.jobs.dispatcher import Dispatcher
from edge.openai.replay import decode_answer, parts_of
from edge.store.job import Job
from edge.types import Finished, Part


def answer_of(job: Job) -> bytes:
    """The result of a job that has ended. Raises what it has failed with."""
    if job.state != "done" or job.result is None:
        raise from_code(job.error_code or "cancelled", job.error_message or job.state)
    return job.result


class Coming:
    """Made at once when the job was added, so that no piece is missed."""

    def __init__(self, dispatcher: Dispatcher, job_id: str) -> None:
        self._dispatcher = dispatcher
        self._job_id = job_id
        self._pieces: asyncio.Queue[list[Part]] = asyncio.Queue()
        dispatcher.follow(job_id, self._pieces.put_nowait)

    async def parts(self, answers: int) -> AsyncGenerator[list[Part], None]:
        """The pieces of so many answers. Raises what the job has failed with.

        Closing this leaves the job alone: its caller is to come back for it.
        """
        ended = asyncio.ensure_future(self._dispatcher.finished(self._job_id))
        begun = False
        try:
            while answers:
                some = await self._next(ended)
                if some is None:
                    answer = answer_of(ended.result())
                    if begun:
                        raise InternalError(
                            "the answer was interrupted and computed anew",
                            hint="ask again with the same idempotency key to have all of it",
                        )
                    yield parts_of(decode_answer(answer))
                    return
                begun = True
                answers -= sum(isinstance(part.event, Finished) for part in some)
                if not answers:
                    answer_of(await ended)
                yield some
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _next(self, ended: asyncio.Future[Job]) -> list[Part] | None:
        """What comes next; None where the job has ended and nothing does."""
        coming = asyncio.ensure_future(self._pieces.get())
        either: set[asyncio.Future[Any]] = {coming, ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            coming.cancel()
        if coming.done() and not coming.cancelled():
            return coming.result()
        return None if self._pieces.empty() else self._pieces.get_nowait()
