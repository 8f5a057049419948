"""Where a request goes: along the targets of its route, until one has answered it whole.

Before the first piece of an answer a failure moves on to the next target. After it, the next
target continues from the text that is out, or the answer ends with an error; it never ends as if
it were whole. Policy only: targets know how to answer, the trail remembers how it went. Owned by
the event loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast

import msgspec

from edge.config import Config
from edge.continuation import Said, Trimmer, can_continue, continuation, exhausted, whole_usage
from edge.errors import (
    DeadlineExceeded,
    EdgeError,
    ModelNotFound,
    NoRoute,
    UpstreamError,
    UpstreamTimeout,
)
from edge.types import Attempt, Delta, Finished, Part, Request, Route, Sampling, Trail, Usage

LONGEST_PAUSE = 5.0
"""Seconds that a repeated attempt waits at most; who asks for more is not asked again."""


class Target(Protocol):
    """What can answer a request: a model here, or one of an upstream.

    retries: how often it may fail and be asked again within one request.
    latency: seconds to the first token, None while unknown.
    room: kept requests that it takes at once now; live ones are not asked.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def route(self) -> Route: ...
    @property
    def retries(self) -> int: ...
    @property
    def latency(self) -> float | None: ...
    @property
    def room(self) -> int: ...

    def unavailable(self) -> EdgeError | None: ...

    def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]: ...


class Router:
    """targets: by their names, `local:MODEL` and `cloud:UPSTREAM`."""

    def __init__(self, config: Config, targets: Mapping[str, Target]) -> None:
        self._config = config
        self._targets = targets

    @property
    def models(self) -> list[str]:
        """The names that a request may ask for."""
        own = [name.removeprefix("local:") for name in self._targets if name.startswith("local:")]
        return [*self._config.routes, *own]

    def model(self, request: Request) -> str:
        """The name that the request asks for."""
        asked = request.model
        return self._config.models.default if asked in (None, "", "default") else asked or ""

    def candidates(self, request: Request) -> list[Target]:
        """Who may answer it, the first choice first. Never a substitute for what was asked for.

        Raises `ModelNotFound` and `NoRoute`, which no waiting mends.
        """
        name = self.model(request)
        if name in self._config.routes:
            found = [t for entry in self._config.routes[name] for t in self._fastest_first(entry)]
        elif f"local:{name}" in self._targets:
            found = [self._targets[f"local:{name}"]]
        else:
            raise ModelNotFound(
                f"the model `{name}` is not served here; these are: {', '.join(self.models)}",
                param="model",
            )
        if request.route in ("local", "cloud"):
            found = [target for target in found if target.route == request.route]
        if self._config.routing.offline_first:
            found.sort(key=lambda target: target.route != "local")
        if not found:
            raise NoRoute(
                f"`{name}` has no {request.route} target, and this request allows nothing else",
                param="edge.route",
            )
        return found

    def line(self, request: Request) -> str:
        """Where a kept request waits: with those that wait for the same."""
        route = "auto" if request.route == "queue" else request.route
        return f"{route} {self.model(request)}"

    def place(self, line: str) -> Target | None:
        """The target that the next request of a line would go to now, None while there is none.

        Raises what `candidates` raises, for a line of an earlier configuration.
        """
        route, _, model = line.partition(" ")
        request = Request("", [], Sampling(), model=model, route=cast(Any, route))
        found = self.candidates(request)
        return next((target for target in found if target.unavailable() is None), None)

    async def stream(
        self, request: Request, trail: Trail, began: float
    ) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers; the trail is filled in on the way.

        began: when the request arrived, by the monotonic clock. Raises an `EdgeError` when nobody
        can answer or go on.
        """
        walk = _Walk(request, trail, began)
        async with aclosing(walk.answers(self.candidates(request))) as parts:
            async for some in parts:
                yield some

    def _fastest_first(self, entry: str | Sequence[str]) -> list[Target]:
        """Of equals, those that can be asked now first, and then by time to the first token; one
        that was never asked is given its chance."""
        if isinstance(entry, str):
            return [self._targets[entry]]
        equals = [self._targets[name] for name in entry]
        return sorted(equals, key=lambda t: (t.unavailable() is not None, t.latency or 0.0))


class _Walk:
    """One request on its way along its targets."""

    def __init__(self, request: Request, trail: Trail, began: float) -> None:
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
            asked = self.may_ask(target, failures)
            while asked:
                try:
                    async with aclosing(self.attempt(target, self.request)) as parts:
                        async for some in parts:
                            yield some
                    return
                except EdgeError as error:
                    failure = _mendable(error)
                if any(one.text or one.finished for one in self.said.values()):
                    rest = self.successors(target, targets[place + 1 :], failure)
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
            asked = self.may_ask(target, failures)
            while asked and not said.finished:
                if exhausted(self.request, said):
                    said.finished = True
                    usage = Usage(0, 0, said.tokens, 0.0, 0.0)
                    yield [Part(index, Finished("", "length", usage))]
                    return
                self.cuts += 1
                more = continuation(self.request, index, said, self.cuts)
                try:
                    async with aclosing(self.attempt(target, more, index)) as parts:
                        async for some in parts:
                            yield some
                except EdgeError as error:
                    failures.append(_mendable(error))
                    asked = await self.again(target, error, last=place + 1 == len(targets))
            if said.finished:
                return
        if not said.finished:
            raise failures[-1]

    async def attempt(
        self, target: Target, request: Request, index: int | None = None
    ) -> AsyncGenerator[list[Part], None]:
        """One try of one target, on record. index: of the answer that this is the rest of."""
        started, note = time.monotonic(), self.note(target, "running")
        before = None if index is None else msgspec.structs.replace(self.said[index])
        request = msgspec.structs.replace(request, deadline=self._left())
        try:
            async with aclosing(target.stream(request, self.began)) as source:
                parts = source if before is None else _rest(source, before, index or 0)
                async for some in parts:
                    for part in some:
                        self.said[part.index].hear(part.event)
                        self.finished += isinstance(part.event, Finished)
                    self.trail.route, self.trail.model = target.route, target.model
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

    def may_ask(self, target: Target, failures: list[EdgeError]) -> bool:
        """False where it says by itself that it cannot answer now, which is noted."""
        refusal = target.unavailable()
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
        if request.on_cut == "fail" or not rest or not can_continue(request):
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
        self.trail.attempts.append(Attempt(target.name, outcome, 0.0))
        return self.trail.attempts[-1]


async def _rest(
    source: AsyncGenerator[list[Part], None], said: Said, index: int
) -> AsyncGenerator[list[Part], None]:
    """The rest of an answer, as pieces of answer `index`: without what was out already, and with
    the usage of the whole."""
    trimmer = Trimmer(said.text)
    async for some in source:
        new = []
        for event in (part.event for part in some):
            if isinstance(event, Finished):
                if held := trimmer.rest():
                    new.append(Part(index, Delta(event.id, [], held)))
                usage = whole_usage(event.usage, said)
                new.append(Part(index, msgspec.structs.replace(event, usage=usage)))
            elif text := trimmer.feed(event.text):
                new.append(Part(index, msgspec.structs.replace(event, text=text)))
        if new:
            yield new


def _mendable(error: EdgeError) -> EdgeError:
    """The failure, if another target may do better. Raises it if none can: the caller's own fault,
    and time that is over."""
    if error.callers_fault or isinstance(error, DeadlineExceeded):
        raise error
    return error


def _verdict(failures: list[EdgeError], targets: Sequence[Target]) -> EdgeError:
    """What the caller hears when nobody could answer: how the last one that tried has failed; and
    where nobody could be asked at all, that there is no route, and when to come back."""
    if len(targets) == 1:
        return failures[-1]
    tried = [failure for failure in failures if not isinstance(failure, NoRoute)]
    if tried:
        return tried[-1]
    waits = [failure.retry_after for failure in failures if failure.retry_after is not None]
    return NoRoute(
        f"no target can be asked now: {'; '.join(failure.message for failure in failures)}",
        retry_after=min(waits, default=None),
    )
