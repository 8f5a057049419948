"""One change of the version that answers under a name, from the question whether it may to its end.

    checking ─► loading ─► canary ─► moving ─► watching ─► done
        │      (draining) │   │                   │
        └────────────┴────┴─► refused             └─► rolled_back

Where both versions fit into the memory, requests go to the old one until the moment in which they
go to the new one, and the old one stays loaded while the new one is watched. Where they do not,
requests wait (`draining`) from the end of the old one until the new one is loaded and has answered.
The store's pointer moves last: whenever the daemon is killed, the next one serves a version that
was in service.
Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from edge.config.models import Switching
from edge.disk import sha256_of
from edge.errors import BadModelFile, EdgeError, OutOfMemory
from edge.modelstore import gguf
from edge.modelstore.canaries import Canary, load_canaries
from edge.modelstore.store import Installed, ModelStore
from edge.runtime.runner import ModelRunner
from edge.switching.trial import Figures, figures, pace, wrong_answers
from edge.switching.verdict import faults

logger = logging.getLogger(__name__)

State = Literal[
    "checking",
    "loading",
    "canary",
    "draining",
    "moving",
    "watching",
    "done",
    "refused",
    "rolled_back",
]

ENDED = ("done", "refused", "rolled_back")

PACES = 3
"""Measurements of the speed, of both versions in turns; the best of each counts."""

MOST_DEATHS = 2
"""Of the new version's worker while it is watched, and the old version is back."""

LAST_SECONDS = 20.0
"""Time that answers get to end on a version that is given up and has to make room."""

LOOK_SECONDS = 0.1


class Traffic(Protocol):
    """Who owns the runners, and sends them requests."""

    def runner(self, name: str) -> ModelRunner | None:
        """Who answers for a name now; None while it is not loaded."""

    def claim(self, name: str) -> AbstractAsyncContextManager[None]:
        """Nobody else loads or unloads the model meanwhile."""

    async def fits(self, model: Installed, beside: ModelRunner) -> bool:
        """Whether it can be loaded now, with no fewer slots and no less context than that has."""

    async def begin(self, model: Installed) -> ModelRunner:
        """Have it loaded beside what there is; nobody asks it yet. Its file stays."""

    def move(self, name: str, runner: ModelRunner) -> None:
        """Whatever comes from now on goes there. What another one has begun ends there."""

    def hold(self, name: str) -> AbstractContextManager[None]:
        """What comes meanwhile waits."""

    async def drained(self, runner: ModelRunner) -> None:
        """Wait until nothing that it was asked is open."""

    def retire(self, runner: ModelRunner) -> None:
        """End it when it has drained."""

    async def drop(self, runner: ModelRunner) -> None:
        """End it now."""

    async def renew(self, path: Path) -> None:
        """Have whatever is loaded from that file leave, for its name means another one now."""


class Order(msgspec.Struct, frozen=True):
    """What is wanted. anyway: whatever the canaries say. by: who wants it, if somebody said."""

    name: str
    version: int
    anyway: bool = False
    by: str | None = None


class Progress(msgspec.Struct):
    """A switch as it is shown.

    version, previous: the numbers of the new and the old one. reason: of the end that nobody
    wanted. beside: both were loaded at once; waited_seconds: for which requests had to wait, and
    were not taken up. began: Unix time.
    """

    name: str
    version: int
    previous: int
    began: float
    state: State = "checking"
    reason: str | None = None
    beside: bool | None = None
    waited_seconds: float = 0.0
    new: Figures | None = None
    old: Figures | None = None


class Refused(Exception):
    """The new version does not come into service, in words."""


class Switch:
    """`run` it once. `progress` is read by whoever wants to see."""

    def __init__(
        self,
        order: Order,
        old: Installed,
        store: ModelStore,
        traffic: Traffic,
        limits: Switching,
    ) -> None:
        """old: the version that is served now."""
        assert old.version is not None
        self.order = order
        self.progress = Progress(order.name, order.version, old.version, time.time())
        self._old = old
        self._store = store
        self._traffic = traffic
        self._limits = limits
        self._canaries: list[Canary] = []

    async def run(self) -> None:
        """To its end, which is in `progress`. Raises nothing but a cancellation."""
        try:
            # Whichever version is loaded in the end, both files are there until then.
            with ExitStack() as held:
                new = await asyncio.to_thread(self._checked, held)
                async with self._traffic.claim(self.order.name):
                    reason = await self._exchange(new)
                if reason is None:  # the model with adapters has the name's old file
                    await self._traffic.renew(self._old.path)
            await self._end("done" if reason is None else "rolled_back", reason)
        except Refused as refusal:
            await self._end("refused", str(refusal))
        except (EdgeError, OSError) as error:
            await self._end("refused", " ".join(str(error).split()))
        except Exception:
            logger.exception("the switch of %s failed", self.order.name)
            await self._end("refused", "the appliance failed; its log says how")

    async def _exchange(self, new: Installed) -> str | None:
        """Why the old version is back; None for an end as it was wanted. Raises why it stayed."""
        old = self._traffic.runner(self.order.name)
        if old is None or old.state != "ready":
            return await self._in_place(old, new)
        await self._look_at_old(old)
        if await self._traffic.fits(new, old):
            try:
                return await self._beside(old, new)
            except OutOfMemory as error:
                logger.warning("%s: %s", self._title, error.message)
        return await self._in_place(old, new)

    async def _beside(self, old: ModelRunner, new: Installed) -> str | None:
        self.progress.beside = True
        runner = await self._try(new, old)
        self._move(runner)
        reason = await self._watch(runner)
        if reason is None and (reason := await self._commit()) is None:
            self._traffic.retire(old)
            return None
        self._traffic.move(self.order.name, old)
        self._traffic.retire(runner)
        return reason

    async def _in_place(self, old: ModelRunner | None, new: Installed) -> str | None:
        self.progress.beside = False
        with self._waiting():
            await self._empty(old)
            try:
                runner = await self._try(new, None)
            except Exception:  # and not where the daemon stops
                if old is not None:
                    await self._return()
                raise
            self._move(runner)
        reason = await self._watch(runner)
        if reason is None and (reason := await self._commit()) is None:
            return None
        with self._waiting():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._traffic.drained(runner), LAST_SECONDS)
            await self._traffic.drop(runner)
            await self._return()
        return reason

    async def _empty(self, old: ModelRunner | None) -> None:
        """Let the old version end what it has begun, and give its memory back."""
        if old is None:
            return
        self._enter("draining")
        try:
            await asyncio.wait_for(self._traffic.drained(old), self._limits.ready_seconds)
        except asyncio.TimeoutError:
            raise Refused(
                "both versions do not fit into the memory, and the answers of the old one have not "
                f"ended within {self._limits.ready_seconds:g} s"
            ) from None
        await self._traffic.drop(old)

    async def _return(self) -> None:
        """Load the old version again. Where that fails its runner goes on trying."""
        runner = await self._traffic.begin(self._old)
        await runner.loaded.wait()
        self._traffic.move(self.order.name, runner)

    async def _try(self, new: Installed, old: ModelRunner | None) -> ModelRunner:
        """Load it and ask it. Raises what speaks against it; it has ended then."""
        self._enter("loading")
        runner = await self._traffic.begin(new)
        try:
            await asyncio.wait_for(self._pass(runner, old), self._limits.ready_seconds)
        except BaseException as error:
            await self._traffic.drop(runner)
            if isinstance(error, asyncio.TimeoutError):
                limit = f"{self._limits.ready_seconds:g} s"
                raise Refused(f"it was not loaded and tried out within {limit}") from None
            raise
        return runner

    async def _pass(self, runner: ModelRunner, old: ModelRunner | None) -> None:
        await runner.loaded.wait()
        if runner.error is not None:
            raise runner.error
        self._enter("canary")
        self.progress.new = await figures(runner)
        await self._time(runner, old)
        found = faults(self.progress.new, self.progress.old, self._limits.slowest)
        found += await wrong_answers(runner, self._canaries)
        if runner.restarts:
            raise Refused("its worker died while it was tried out")
        if found and not self.order.anyway:
            raise Refused("; ".join(found))
        if found:
            logger.warning("%s is wanted anyway: %s", self._title, "; ".join(found))

    async def _time(self, runner: ModelRunner, old: ModelRunner | None) -> None:
        """In turns, so that what else the machine does slows both."""
        assert self.progress.new is not None
        for _ in range(PACES):
            if old is not None:
                await self._time_old(old)
            rate = await pace(runner)
            self.progress.new.tokens_per_second = max(self.progress.new.tokens_per_second, rate)

    async def _look_at_old(self, old: ModelRunner) -> None:
        """What the old version shows, as far as it does: it may be what is to be got rid of."""
        try:
            self.progress.old = await asyncio.wait_for(figures(old), self._limits.ready_seconds)
        except (EdgeError, asyncio.TimeoutError) as error:
            logger.warning("%s: the old version shows nothing: %s", self._title, error)
        await self._time_old(old)

    async def _time_old(self, old: ModelRunner) -> None:
        known = self.progress.old
        if known is not None and old.state == "ready":
            with suppress(EdgeError):
                known.tokens_per_second = max(known.tokens_per_second, await pace(old))

    def _move(self, runner: ModelRunner) -> None:
        self._enter("moving")
        self._traffic.move(self.order.name, runner)

    async def _watch(self, runner: ModelRunner) -> str | None:
        """Why it cannot stay, in words."""
        self._enter("watching")
        end = time.monotonic() + self._limits.watch_seconds
        while time.monotonic() < end:
            if runner.error is not None:
                return f"it could not be loaded again: {runner.error.message}"
            if runner.restarts >= MOST_DEATHS:
                return f"its worker died {runner.restarts} times within a moment"
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def _commit(self) -> str | None:
        """Have the name mean it from the next start on, too. Why that cannot be, in words."""
        order = self.order
        try:
            await asyncio.to_thread(self._store.activate, order.name, order.version, order.by)
        except (EdgeError, OSError) as error:
            return f"it could not be written down: {error}"
        return None

    def _checked(self, held: ExitStack) -> Installed:
        """The new version, whose file is what was installed. Waits for the disk."""
        order = self.order
        self._canaries = load_canaries(self._store.canaries(order.name))
        held.enter_context(self._store.hold(f"{order.name}@{self._old.version}"))
        new = held.enter_context(self._store.hold(f"{order.name}@{order.version}"))
        gguf.read_header(new.path)
        assert new.manifest is not None
        if sha256_of(new.path) != new.manifest.sha256:
            raise BadModelFile(f"{new.path} is not what was installed: the disk has changed it")
        return new

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Requests wait, and it is counted for how long."""
        began = time.monotonic()
        try:
            with self._traffic.hold(self.order.name):
                yield
        finally:
            self.progress.waited_seconds += time.monotonic() - began

    def _enter(self, state: State) -> None:
        self.progress.state = state
        logger.info("%s: %s", self._title, state)

    async def _end(self, state: State, reason: str | None = None) -> None:
        self.progress.reason = reason
        if reason is not None:
            logger.error("%s: %s: %s", self._title, state, reason)
            try:
                await asyncio.to_thread(
                    self._store.refuse, self.order.name, self.order.version, reason
                )
            except (EdgeError, OSError) as error:
                logger.error("%s: that could not be written down: %s", self._title, error)
        # Last, for whoever waits for it.
        self._enter(state)

    @property
    def _title(self) -> str:
        return f"{self.order.name}@{self.order.version}"
