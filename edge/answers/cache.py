"""How requests come to share an answer.

An answer that is decided by its request alone is computed once: who asks while it is computed
listens along from its beginning, who asks later gets it out of a file (`store/answers.py`).

    listener ─┐                    ┌─ the file, if it is there
    listener ─┼─ Computation ◄─────┤
    listener ─┘   (a task)         └─ the source, and what came whole goes into the file

A computation lives as long as anybody listens; the last one who leaves closes it, and hears only
then that it has left. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from edge.answers.likeness import Likeness
from edge.answers.similar import SimilarAnswers
from edge.errors import EdgeError, InternalError
from edge.loops import Loop, QuietLog
from edge.metrics import Metrics
from edge.store.answers import Answers
from edge.toolcalls import whole_calls
from edge.types import (
    CallPiece,
    Delta,
    Finished,
    FinishReason,
    Part,
    Route,
    TokenLogprob,
    Trail,
    Usage,
)

EXPIRY_SECONDS = 60.0

Source = Callable[[], AsyncGenerator[list[Part], None]]


class _Whole(msgspec.Struct, array_like=True):
    """One whole answer as it is kept."""

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob]
    reason: FinishReason
    usage: Usage
    calls: list[CallPiece]

    def parts(self, index: int) -> list[Part]:
        delta = Delta("", self.tokens, self.text, self.logprobs, self.calls)
        return [Part(index, delta), Part(index, Finished("", self.reason, self.usage))]


class _Kept(msgspec.Struct, array_like=True):
    """What is in the file under a key: the answers in their order, and the model that gave them."""

    model: str
    answers: list[_Whole]


_kept_decoder = msgspec.msgpack.Decoder(_Kept)


class _Computation:
    """An answer that is looked up or computed, with all that came of it so far."""

    def __init__(self, trail: Trail, likeness: Likeness | None) -> None:
        self.trail = trail
        self.likeness = likeness
        self.vector: bytes | None = None
        self.pieces: list[list[Part]] = []
        self.listeners = 0
        self.ended = False
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def add(self, parts: list[Part]) -> None:
        self.pieces.append(parts)
        self._wake()

    def end(self, error: Exception | None) -> None:
        self.ended, self.error = True, error
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def heard(self, trail: Trail) -> AsyncGenerator[list[Part], None]:
        """All pieces from the first one on; `trail` is kept like the computation's own.

        For who comes after its end they come out of the cache, where they are on their way to.
        """
        at = 0
        route: Route | None = "cache" if self.ended else None
        while True:
            while at == len(self.pieces) and not self.ended:
                await self._changed.wait()
            trail.route, trail.model = route or self.trail.route, self.trail.model
            if at < len(self.pieces):
                # One list for all that a slow listener has missed.
                parts = [part for some in self.pieces[at:] for part in some]
                at = len(self.pieces)
                yield parts
            elif self.error is not None:
                raise self.error
            else:
                return


class AnswerCache:
    """`run` it in a task. ttl: seconds for which an answer may be used again."""

    def __init__(
        self,
        answers: Answers,
        ttl: float,
        metrics: Metrics,
        *,
        similar: SimilarAnswers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.similar = similar
        self._answers = answers
        self._ttl = ttl
        self._metrics = metrics
        self._clock = clock
        self._computations: dict[bytes, _Computation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = QuietLog("the answer cache")
        self._loop = Loop("answer cache", self._expire, tick=EXPIRY_SECONDS)

    def reconfigure(self, ttl: float) -> None:
        self._ttl = ttl

    async def run(self) -> None:
        await self._loop.run()

    async def stop(self) -> None:
        """End what is still computed, and wait until what was computed is kept."""
        self._loop.stop()
        for computation in self._computations.values():
            if computation.task is not None and not computation.ended:
                computation.task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def through(
        self, key: bytes, source: Source, trail: Trail, likeness: Likeness | None = None
    ) -> AsyncGenerator[list[Part], None]:
        """Yield the answer to `key`: the kept one, the one under way, or that of `source`.

        A kept one comes as one piece, with the usage and the model of when it was made, and
        `trail.route` is `cache`. Otherwise `trail.route` and `trail.model` are those of the trail
        that the source of the computation writes to, which is that of its first caller, who alone
        has used energy.
        likeness: whose answers will do as well, if any.

        Whatever `source` raises, all raise who listen; who comes later computes anew. So it must
        not know what belongs to one caller alone, such as a deadline.
        """
        self._metrics.cache_queries.inc()
        computation = self._computations.get(key)
        if computation is None:
            computation, pays = self._start(key, source, trail, likeness), True
        else:
            self._metrics.cache_shared.inc()
            pays = False
        computation.listeners += 1
        try:
            async with aclosing(computation.heard(trail)) as pieces:
                async for parts in pieces:
                    yield parts if pays else _for_nothing(parts)
        finally:
            computation.listeners -= 1
            if computation.listeners == 0 and not computation.ended:
                await self._abandon(key, computation)

    def _start(
        self, key: bytes, source: Source, trail: Trail, likeness: Likeness | None
    ) -> _Computation:
        computation = self._computations[key] = _Computation(trail, likeness)
        task = asyncio.create_task(self._compute(key, computation, source), name="answer")
        computation.task = task
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._done(key, computation, task))
        return computation

    def _done(self, key: bytes, computation: _Computation, task: asyncio.Task[None]) -> None:
        """However it came to its end, even if it was cancelled before it began."""
        self._tasks.discard(task)
        self._forget(key, computation)
        if not computation.ended:
            computation.end(InternalError("the computation of this answer was given up"))

    async def _abandon(self, key: bytes, computation: _Computation) -> None:
        """Nobody listens any more: return when the source is closed."""
        self._forget(key, computation)
        if computation.task is not None:
            computation.task.cancel()
            await asyncio.wait({computation.task})

    def _forget(self, key: bytes, computation: _Computation) -> None:
        if self._computations.get(key) is computation:
            del self._computations[key]

    async def _compute(self, key: bytes, computation: _Computation, source: Source) -> None:
        try:
            kept = await self._find(key) or await self._find_similar(computation)
            if kept is not None:
                self._metrics.cache_hits.inc()
                computation.trail = Trail("cache", kept.model)
                answers = enumerate(kept.answers)
                computation.add([part for index, one in answers for part in one.parts(index)])
            else:
                async with aclosing(source()) as pieces:
                    async for parts in pieces:
                        computation.add(parts)
        except Exception as error:
            self._forget(key, computation)
            computation.end(error)
            if not computation.listeners:
                self._log.error(error)  # it came of closing the source, and nobody else hears it
        else:
            computation.end(None)
            # Still found by those who come now: they need not compute what is being kept.
            if kept is None:
                await self._keep(key, computation)

    async def _find(self, key: bytes) -> _Kept | None:
        """A store that fails has nothing: whatever is wrong with it, the answer can be computed."""
        try:
            body = await self._answers.get(key, self._clock() - self._ttl)
            return None if body is None else _kept_decoder.decode(body)
        except Exception as error:
            self._failed(error)
            return None

    async def _find_similar(self, computation: _Computation) -> _Kept | None:
        """The answer to the same in other words. Notes the vector, to keep the answer with it."""
        likeness, similar = computation.likeness, self.similar
        if likeness is None or similar is None:
            return None
        try:
            computation.vector = await similar.vector(likeness)
            not_before = self._clock() - self._ttl
            found = await similar.find(likeness, computation.vector, not_before)
        except Exception as error:
            self._failed(error)
            return None
        kept = None if found is None else await self._find(found)
        if kept is not None:
            self._metrics.cache_similar.inc()
        return kept

    async def _keep(self, key: bytes, computation: _Computation) -> None:
        answers = _whole(computation.pieces)
        if answers is None:
            return
        try:
            kept = _Kept(computation.trail.model, answers)
            body, likeness = msgspec.msgpack.encode(kept), computation.likeness
            if likeness is None or computation.vector is None:
                await self._answers.put(key, body)
            else:
                await self._answers.put(key, body, likeness.group, computation.vector)
        except Exception as error:
            self._failed(error)

    async def _expire(self) -> None:
        try:
            await self._answers.expire(self._clock() - self._ttl)
        except EdgeError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._metrics.cache_errors.inc()
        if not isinstance(error, EdgeError):  # the store has told of those
            self._log.error(error)


def _for_nothing(parts: list[Part]) -> list[Part]:
    """For who listens along: the energy is another's."""
    return [Part(part.index, _without(part.event)) for part in parts]


def _without(event: Delta | Finished) -> Delta | Finished:
    if isinstance(event, Delta) or event.usage.energy is None:
        return event
    usage = msgspec.structs.replace(event.usage, energy=event.usage.energy.times(0))
    return msgspec.structs.replace(event, usage=usage)


def _whole(pieces: list[list[Part]]) -> list[_Whole] | None:
    """The answers in their order; None if one of them did not end by itself or at its limit."""
    deltas: dict[int, list[Delta]] = {}
    ends: dict[int, Finished] = {}
    for parts in pieces:
        for part in parts:
            some = deltas.setdefault(part.index, [])
            if isinstance(part.event, Finished):
                ends[part.index] = part.event
            else:
                some.append(part.event)
    if not deltas or sorted(ends) != list(range(len(deltas))):
        return None
    if any(end.reason not in ("stop", "length", "tool_calls") for end in ends.values()):
        return None
    return [
        _Whole(
            "".join(delta.text for delta in deltas[index]),
            [token for delta in deltas[index] for token in delta.tokens],
            [entry for delta in deltas[index] for entry in delta.logprobs],
            ends[index].reason,
            msgspec.structs.replace(ends[index].usage, energy=None),
            whole_calls(piece for delta in deltas[index] for piece in delta.calls),
        )
        for index in range(len(deltas))
    ]
