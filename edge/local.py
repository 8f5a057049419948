"""A model of this appliance as a target: from a request to the pieces of its answers.

Admission comes first, before any work. Owned by the event loop; closing the generator cancels the
work within one step.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from secrets import token_hex

import msgspec

from edge.admission import Admission
from edge.config.doors import Limits
from edge.errors import DeadlineExceeded, EdgeError, ModelLoading, Overloaded, from_code
from edge.fleet.fleet import LOADING_RETRY, Fleet
from edge.heat.governor import Governor
from edge.metrics import Metrics
from edge.routing.target import Target
from edge.runtime.runner import ModelRunner
from edge.toolcalls import CallReader
from edge.types import Delta, Event, Failed, Finished, Generation, Part, Request, Route, Started


class Targets(Mapping[str, Target]):
    """All who can answer, by their names: upstreams, and the models that are installed now."""

    def __init__(
        self,
        clouds: Iterable[Target],
        fleet: Fleet,
        limits: Limits,
        metrics: Metrics,
        heat: Governor,
    ) -> None:
        self._clouds = {cloud.name: cloud for cloud in clouds}
        self._local: dict[str, LocalModel] = {}
        self._fleet = fleet
        self._limits = limits
        self._make = partial(LocalModel, fleet=fleet, metrics=metrics, heat=heat)

    def reconfigure(self, clouds: Iterable[Target], limits: Limits) -> None:
        """Other upstreams and limits from now on; requests that have begun keep theirs."""
        self._clouds = {cloud.name: cloud for cloud in clouds}
        self._limits = limits
        for model in self._local.values():
            model.limits = model.admission.limits = limits

    def __getitem__(self, name: str) -> Target:
        """Also for a model that is not there any more, which then says so itself."""
        if name in self._clouds:
            return self._clouds[name]
        if name not in self._local:
            self._local[name] = self._make(name.removeprefix("local:"), limits=self._limits)
        return self._local[name]

    def __contains__(self, name: object) -> bool:
        if name in self._clouds:
            return True
        local = isinstance(name, str) and name.startswith("local:")
        return local and self._fleet.find(str(name).removeprefix("local:")) is not None

    def __iter__(self) -> Iterator[str]:
        yield from self._clouds
        for name in self._fleet.names():
            yield f"local:{name}"

    def __len__(self) -> int:
        return sum(1 for _ in self)


class LocalModel:
    """`name` is the target's, `model` the one that answers."""

    route: Route = "local"
    retries = 0
    reachable = True

    def __init__(
        self, model: str, fleet: Fleet, limits: Limits, metrics: Metrics, heat: Governor
    ) -> None:
        self.name = f"local:{model}"
        self.model = model
        self.fleet = fleet
        self.limits = limits
        self.metrics = metrics
        self.admission = Admission(limits)
        self._heat = heat

    @property
    def identity(self) -> str:
        """Changes when another file gets the model's name, or that of its adapter. Another one each
        time while it is not known which version will answer."""
        model = self.fleet.find(self.model)
        if model is not None and model.held:
            return f"{self.name} {time.monotonic_ns()}"
        path, adapter = self.fleet.path(self.model), self.fleet.adapter(self.model)
        if path is None:
            return self.name
        try:
            files = [_identity(path)]
            if adapter is not None:
                files.append(f"{_identity(Path(adapter.path))} {adapter.scale}")
        except OSError:
            return self.name
        return " ".join([self.name, *files])

    @property
    def latency(self) -> float | None:
        """Seconds to a first token, as far as a full house tells: a free slot is at hand."""
        runner = self._runner
        if runner is None or runner.facts is None or runner.live < runner.facts.slots:
            return 0.0
        return self.admission.retry_after(runner.live, runner.facts.slots)

    def filled_in(self, request: Request) -> Request:
        """With what is decided here where the caller has left it open."""
        limit = request.max_tokens or self.limits.default_max_tokens
        return msgspec.structs.replace(request, max_tokens=limit)

    @property
    def room(self) -> int:
        """All slots but one, which is left to live requests; none while those have them all.

        One for a model that is not loaded: who waits for it brings it its turn, and the others
        follow when it is there. None while it makes way for another.
        """
        model = self.fleet.find(self.model)
        if model is None or model.draining or model.held:
            return 0
        facts = model.runner.facts if model.runner is not None else None
        if model.runner is None or facts is None:
            return 1
        return 0 if model.runner.live >= facts.slots else max(1, facts.slots - 1)

    @property
    def at_hand(self) -> bool:
        """False while it has to be loaded first."""
        model = self.fleet.find(self.model)
        return model is not None and model.at_hand

    def fetch(self) -> None:
        """Load it for those who come later, if nobody is the worse for it."""
        self.fleet.fetch(self.model)

    def unavailable(self) -> EdgeError | None:
        """Why it cannot be asked now, None if it can."""
        return self.fleet.refusal(self.model)

    async def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers as they come, several at a time when they pile up.

        The first yield comes with the first token. Raises an `EdgeError` when the request is
        refused, and when the answer cannot be completed. began: unused, for what is here is
        bounded by `limits.max_wait_seconds` and the deadline.
        """
        if refusal := self.unavailable():
            raise refusal
        self._heat.check(request.priority, kept=request.kept, may_wait=request.may_wait)
        waits_since = time.monotonic()
        try:
            async with self.fleet.use(
                self.model, self._patience(request), urgent=request.priority == "critical"
            ) as runner:
                waited = time.monotonic() - waits_since
                async with aclosing(self._answered(runner, request, waited)) as answers:
                    async for parts in answers:
                        yield parts
        except ModelLoading:
            if request.deadline is not None and time.monotonic() - waits_since >= request.deadline:
                raise _late() from None
            raise

    async def _answered(
        self, runner: ModelRunner, request: Request, waited: float
    ) -> AsyncGenerator[list[Part], None]:
        if runner.facts is None:
            raise ModelLoading(f"{self.model} is not loaded yet", retry_after=LOADING_RETRY)
        self.admission.check(
            wanted=request.answers,
            live=runner.live,
            slots=runner.facts.slots,
            urgent=request.priority == "critical",
        )
        answer = _Answer(self, runner, request, waited)
        try:
            answer.start()
            while answer.open:
                parts, failure = await answer.next()
                if parts:
                    yield parts
                if failure is not None:
                    raise failure
        finally:
            answer.close()

    @property
    def _runner(self) -> ModelRunner | None:
        model = self.fleet.find(self.model)
        return None if model is None else model.runner

    def _patience(self, request: Request) -> float | None:
        """Seconds that the request waits for its model; None for as long as it takes.

        Raises `Overloaded` where too many wait already.
        """
        model = self.fleet.find(self.model)
        waiting = 0 if model is None else len(model.waiters)
        if waiting >= max(1, self.limits.max_waiting) and request.priority != "critical":
            raise Overloaded(
                f"{waiting} requests wait for {self.model} to be loaded already, which is the "
                "limit",
                hint="come back later, or raise limits.max_waiting",
                retry_after=LOADING_RETRY,
            )
        longest = None if request.kept else self.limits.max_wait_seconds
        bounds = [bound for bound in (longest, request.deadline) if bound is not None]
        return min(bounds, default=None)


class _Answer:
    """One request on its way through a runner: its generations feed one queue."""

    def __init__(
        self, target: LocalModel, runner: ModelRunner, request: Request, waited: float
    ) -> None:
        """waited: seconds that the request has spent on waiting for its model."""
        self.runner = runner
        self.request = request
        self.limits = target.limits
        self.metrics = target.metrics
        self.admission = target.admission
        self.queue: asyncio.Queue[tuple[int, Event | EdgeError]] = asyncio.Queue()
        # A kept request that is asked anew has the id that it had. Under another one, nothing is
        # taken for its own that a busy worker still says of what was cancelled.
        own = token_hex(4)
        self.open = {f"{request.id}.{index}-{own}": index for index in range(request.answers)}
        self.patience = target.limits.max_wait_seconds
        if not request.kept:
            self.patience = max(0.0, self.patience - waited)
        self.deadline: float | None = None
        if request.deadline is not None:
            self.deadline = time.monotonic() + request.deadline - waited
        tools = request.tools
        calling = tools is not None and tools.callable
        self.readers = {index: CallReader() for index in self.open.values() if calling}
        self.started_at: float | None = None
        self.timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        self._set_timers()
        for generation_id, index in self.open.items():
            self.runner.submit(
                self._generation(generation_id, index),
                partial(self._put, index),
                resumable=self.request.on_cut == "continue",
            )

    async def next(self) -> tuple[list[Part], EdgeError | None]:
        """All that is there, when there is something, and the failure that comes after it."""
        parts: list[Part] = []
        try:
            parts += self._part(*await self.queue.get())
            while not self.queue.empty():
                parts += self._part(*self.queue.get_nowait())
        except EdgeError as failure:
            return parts, failure
        return parts, None

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()
        for generation_id in self.open:
            self.runner.cancel(generation_id)
        if self.started_at is not None:
            self.admission.observe(time.monotonic() - self.started_at)

    def _set_timers(self) -> None:
        """Times are events like all others, so that a token costs no timer of its own.

        The engine knows the deadline too, and computes nothing for an answer that is past it. It
        is told here, because there may be no worker just then, or one that hangs. Whoever is first
        ends the answer, and nobody listens to the other. Only here is it known which answers
        belong to one request, and so whether it still waits for its first slot.
        """
        loop = asyncio.get_running_loop()
        if self.deadline is not None:
            left = max(0.0, self.deadline - time.monotonic())
            self.timers.append(loop.call_later(left, self._put, -1, _late()))
        self.timers.append(loop.call_later(self.patience, self._give_up_waiting))

    def _give_up_waiting(self) -> None:
        if self.started_at is None:
            slots = self.runner.facts.slots if self.runner.facts else 1
            self._put(-1, self.admission.waited_too_long(self.runner.live, slots))

    def _put(self, index: int, event: Event | EdgeError) -> None:
        self.queue.put_nowait((index, event))

    def _generation(self, generation_id: str, index: int) -> Generation:
        request = self.request
        sampling = request.sampling
        # The seed is chosen here and not in the worker, so that an answer that has to be resumed
        # goes on with the same random numbers.
        seed = random.getrandbits(32) if sampling.seed is None else sampling.seed + index
        return Generation(
            id=generation_id,
            prompt=request.prompts[index // request.n],
            sampling=msgspec.structs.replace(sampling, seed=seed & 0xFFFFFFFF),
            max_tokens=request.max_tokens or self.limits.default_max_tokens,
            stop=request.stop,
            ignore_eos=request.ignore_eos,
            logprobs=request.logprobs,
            priority=request.priority,
            caller=request.caller,
            grammar=request.grammar,
            deadline=self.deadline,
            shared_prefix=request.shared_prefix,
        )

    def _part(self, index: int, event: Event | EdgeError) -> list[Part]:
        if isinstance(event, EdgeError):
            raise event
        if isinstance(event, Failed):
            if event.code == DeadlineExceeded.code:
                raise _late()
            raise from_code(event.code, event.message, event.param)
        if isinstance(event, Started):
            if self.started_at is None:
                self.started_at = time.monotonic()
        elif isinstance(event, Delta):
            self.metrics.generation_tokens.inc(len(event.tokens))
            return [Part(index, self._read(index, event))]
        elif isinstance(event, Finished):
            del self.open[event.id]
            self.metrics.prompt_tokens.inc(event.usage.prompt_tokens)
            self.metrics.prefix_queries.inc(event.usage.prompt_tokens)
            self.metrics.prefix_hits.inc(event.usage.cached_tokens)
            self.metrics.forced_tokens.inc(event.usage.forced_tokens)
            self.metrics.draft_tokens.inc(event.usage.drafted_tokens)
            self.metrics.accepted_tokens.inc(event.usage.accepted_tokens)
            return self._ending(index, event)
        return []

    def _read(self, index: int, delta: Delta) -> Delta:
        """With the calls of tools taken out of the text."""
        reader = self.readers.get(index)
        if reader is None:
            return delta
        text, calls = reader.feed(delta.text)
        return msgspec.structs.replace(delta, text=text, calls=calls)

    def _ending(self, index: int, finished: Finished) -> list[Part]:
        reader = self.readers.get(index)
        if reader is None:
            return [Part(index, finished)]
        text, reason = reader.finish(finished.reason)
        end = Part(index, msgspec.structs.replace(finished, reason=reason))
        return [Part(index, Delta(finished.id, [], text)), end] if text else [end]


def _identity(path: Path) -> str:
    facts = path.stat()
    return f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed", param="edge.deadline_ms")
