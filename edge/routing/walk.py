"""One request on its way along its targets, until one has answered it whole.

Before the first piece of an answer a failure moves on to the next target. After it, the next
target continues from the text that is out, or the answer ends with an error; it never ends as if
it were whole. Targets know how to answer; the trail remembers how it went.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from edge.answers.cache import AnswerCache
from edge.answers.keys import key
from edge.answers.likeness import likeness
from edge.errors import (
    DeadlineExceeded,
    EdgeError,
    ModelLoading,
    NoRoute,
    UpstreamError,
    UpstreamTimeout,
)
from edge.routing.continuation import (
    Said,
    Trimmer,
    can_continue,
    continuation,
    exhausted,
    whole_usage,
)
from edge.routing.target import Target
from edge.types import Attempt, Delta, Finished, Part, Request, Trail, Usage

LONGEST_PAUSE = 5.0
"""Seconds that a repeated attempt waits at most; who asks for more is not asked again."""


class Walk:
    """Made for one request. cache: None where its answer is not to be used again."""

    def __init__(
        self, request: Request, trail: Trail, began: float, cache: AnswerCache | None
    ) -> None:
        self.cache = cache
        self.request = request
        self.trail = trail
        self.began = began
        self.deadline = None if request.deadline is None else began + request.deadline
        # Nothing is set aside for answers that may be refused: a caller can ask for millions.
        self.said: defaultdict[int, Said] = defaultdict(Said)
        self.finished = 0
        self.failures: dict[str, int] = {}
        self.cuts = 0

    async def answers(self, targets: Sequence[Target]) -> AsyncGenerator[list[Part], None]:
        """All answers, from the first target that gives them or begins to."""
        failures: list[EdgeError] = []
        for place, target in enumerate(targets):
            behind = targets[place + 1 :]
            asked = self.cache is not None or self.may_ask(target, failures, behind)
            while asked:
                try:
                    async with aclosing(self.attempt(target, behind=behind)) as parts:
                        async for some in parts:
                            yield some
                    return
                except EdgeError as error:
                    failure = _mendable(error)
                if any(one.begun for one in self.said.values()):
                    rest = self.successors(target, behind, failure)
                    for index in range(self.request.answers):
                        async with aclosing(self.rest_of(index, rest, failure)) as parts:
                            async for some in parts:
                                yield some
                    return
                failures.append(failure)
                asked = await self.again(target, failure, last=place + 1 == len(targets))
        raise _verdict(failures, targets)

    async def rest_of(
        self, index: int, targets: Sequence[Target], failure: EdgeError
    ) -> AsyncGenerator[list[Part], None]:
        """What is left of one answer that was cut, from whoever can go on."""
        said = self.said[index]
        failures = [failure]
        for place, target in enumerate(targets):
            asked = self.may_ask(target, failures, targets[place + 1 :])
            while asked and not said.finished:
                if exhausted(self.request, said):
                    said.finished = True
                    usage = Usage(0, 0, said.tokens, 0.0, 0.0)
                    yield [Part(index, Finished("", "length", usage))]
                    return
                self.cuts += 1
                try:
                    async with aclosing(self.attempt(target, index)) as parts:
                        async for some in parts:
                            yield some
                except EdgeError as error:
                    failures.append(_mendable(error))
                    if said.calling:
                        raise
                    asked = await self.again(target, error, last=place + 1 == len(targets))
            if said.finished:
                return
        if not said.finished:
            raise _last_tried(failures)

    async def attempt(
        self, target: Target, index: int | None = None, behind: Sequence[Target] = ()
    ) -> AsyncGenerator[list[Part], None]:
        """One try of one target, on record. index: of the answer that only the rest is asked of.
        behind: who could be asked after it."""
        started, note = time.monotonic(), self.note(target, "running")
        origin = Trail(target.route, target.model)
        try:
            async with aclosing(self.source(target, index, origin, behind)) as parts:
                async for some in parts:
                    for part in some:
                        self.said[part.index].hear(part.event)
                        self.finished += isinstance(part.event, Finished)
                    self.trail.route, self.trail.model = origin.route, origin.model
                    if origin.route == "cache":
                        note.target = "cache"
                    note.seconds = round(time.monotonic() - started, 4)
                    if self.finished == self.request.answers:
                        note.outcome = "ok"
                    yield some
            note.outcome = "ok"
        except EdgeError as error:
            note.outcome = error.code
            self.failures[target.name] = self.failures.get(target.name, 0) + 1
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if note.outcome == "running":
                note.outcome = "cancelled"
            raise
        finally:
            note.seconds = round(time.monotonic() - started, 4)

    def source(
        self, target: Target, index: int | None, origin: Trail, behind: Sequence[Target]
    ) -> AsyncGenerator[list[Part], None]:
        """What a target has to say to the request, or to the rest of one answer; the cache may know
        it already. origin: becomes where it really comes from."""
        request = msgspec.structs.replace(self.request, deadline=self._left())
        if index is not None:
            said = msgspec.structs.replace(self.said[index])
            more = continuation(request, index, said, self.cuts)
            return _rest(target.stream(more, self.began), said, index)
        if self.cache is None:
            return target.stream(request, self.began)
        # Who listens along need not be in as much of a hurry.
        shared = msgspec.structs.replace(request, deadline=None)
        filled, whose = target.filled_in(shared), (target.identity, request.caller)
        similar = self.cache.similar
        parts = self.cache.through(
            key(filled, *whose),
            lambda: _asked(target, shared, self.began, behind),
            origin,
            None if similar is None else likeness(filled, *whose, similar.embedder),
        )
        return parts if self.deadline is None else _until(self.deadline, parts)

    def may_ask(self, target: Target, failures: list[EdgeError], behind: Sequence[Target]) -> bool:
        """False where it is not worth asking now, which is noted."""
        refusal = passed_over(target, behind)
        if refusal is not None:
            failures.append(refusal)
            self.note(target, refusal.code)
        return refusal is None

    def successors(
        self, target: Target, rest: Sequence[Target], failure: EdgeError
    ) -> Sequence[Target]:
        """Who may go on with answers that were cut. Raises the failure where nobody may."""
        request = self.request
        if not rest and not self._spent(target) and not request.kept:
            # A kept request is rather asked anew, with the same idempotency key.
            rest = [target]
        if request.on_cut == "fail" or not rest or not can_continue(request, self.said.values()):
            raise failure
        return rest

    async def again(self, target: Target, failure: EdgeError, *, last: bool) -> bool:
        """True after a pause, if the same target is worth another attempt."""
        if not (isinstance(failure, UpstreamError) and failure.again) or self._spent(target):
            return False
        if isinstance(failure, UpstreamTimeout) and not last:
            return False
        doubling = 0.1 * 2 ** self.failures[target.name]
        pause = failure.retry_after or doubling * random.uniform(0.5, 1.0)
        left = self._left()
        if pause > LONGEST_PAUSE or (left is not None and pause >= left):
            return False
        await asyncio.sleep(pause)
        return target.unavailable() is None

    def _spent(self, target: Target) -> bool:
        return self.failures.get(target.name, 0) > target.retries

    def _left(self) -> float | None:
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - time.monotonic())

    def note(self, target: Target, outcome: str) -> Attempt:
        self.trail.route, self.trail.model = target.route, target.model
        self.trail.attempts.append(Attempt(target.name, outcome, 0.0))
        return self.trail.attempts[-1]


def passed_over(target: Target, behind: Sequence[Target]) -> EdgeError | None:
    """Why it is not asked now: it says that it cannot answer; or it has to be loaded first, and one
    of those behind it can answer at once. Then it is loaded for who comes later."""
    if refusal := target.unavailable():
        return refusal
    if target.at_hand or not any(one.at_hand and one.unavailable() is None for one in behind):
        return None
    target.fetch()
    return ModelLoading(f"{target.name} is not loaded, and another can answer", retry_after=1)


async def _asked(
    target: Target, request: Request, began: float, behind: Sequence[Target]
) -> AsyncGenerator[list[Part], None]:
    """Its answer, unless it is not worth asking now."""
    if refusal := passed_over(target, behind):
        raise refusal
    async with aclosing(target.stream(request, began)) as parts:
        async for some in parts:
            yield some


async def _until(
    deadline: float, parts: AsyncGenerator[list[Part], None]
) -> AsyncGenerator[list[Part], None]:
    """The same up to a time on the monotonic clock. Raises `DeadlineExceeded`."""
    async with aclosing(parts):
        while True:
            try:
                left = max(0.0, deadline - time.monotonic())
                yield await asyncio.wait_for(parts.__anext__(), left)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError:
                raise DeadlineExceeded("the deadline passed", param="edge.deadline_ms") from None


async def _rest(
    source: AsyncGenerator[list[Part], None], said: Said, index: int
) -> AsyncGenerator[list[Part], None]:
    """The rest of an answer, as pieces of answer `index`: without what was out already, and with
    the usage of the whole."""
    trimmer = Trimmer(said.text)
    async with aclosing(source):
        async for some in source:
            new = []
            for event in (part.event for part in some):
                if isinstance(event, Finished):
                    if held := trimmer.rest():
                        new.append(Part(index, Delta(event.id, [], held)))
                    usage = whole_usage(event.usage, said)
                    new.append(Part(index, msgspec.structs.replace(event, usage=usage)))
                else:
                    text = trimmer.feed(event.text)
                    if event.calls:
                        text += trimmer.rest()
                    if text or event.calls:
                        new.append(Part(index, msgspec.structs.replace(event, text=text)))
            if new:
                yield new


def _mendable(error: EdgeError) -> EdgeError:
    """The failure, if another target may do better. Raises it if none can: the caller's own fault,
    and time that is over."""
    if error.callers_fault or isinstance(error, DeadlineExceeded):
        raise error
    return error


def _last_tried(failures: list[EdgeError]) -> EdgeError:
    """Of those that were asked; the last of all where nobody was."""
    tried = [failure for failure in failures if not isinstance(failure, NoRoute)]
    return (tried or failures)[-1]


def _verdict(failures: list[EdgeError], targets: Sequence[Target]) -> EdgeError:
    """What the caller hears when nobody could answer: how the last one that tried has failed; and
    where nobody could be asked at all, that there is no route, and when to come back."""
    last = _last_tried(failures)
    if len(targets) == 1 or not isinstance(last, NoRoute):
        return last
    waits = [failure.retry_after for failure in failures if failure.retry_after is not None]
    return NoRoute(
        f"no target can be asked now: {'; '.join(failure.message for failure in failures)}",
        retry_after=min(waits, default=None),
    )
