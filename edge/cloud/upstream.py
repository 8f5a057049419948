"""One cloud model, as the router sees it: may it be asked, and if so, its answer.

Owns the books on it: breaker, link, the time until which it asked to be left alone, how fast it
is. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from edge.cloud.attempt import Attempt, deadline_exceeded
from edge.cloud.body import Order, orders
from edge.cloud.breaker import Breaker, Permit
from edge.cloud.connections import Connections
from edge.cloud.failure import CallFailed, Failure, of_total
from edge.cloud.key import read_key
from edge.cloud.probe import Link, Probe
from edge.cloud.throttle import Throttle
from edge.config import answering
from edge.errors import EdgeError, NoRoute
from edge.loops import Loop
from edge.metrics import Metrics
from edge.types import Part, Request

logger = logging.getLogger(__name__)

SMOOTHING = 0.2
"""Weight of the newest time to the first token."""

HEADERS = 500
"""Bytes of a call beside its body, about."""

STATES = {"closed": 0, "half_open": 1, "open": 2}

SHORTEST_TICK = 0.01


class Upstream:
    """`run` it in a task; `stream` at any time.

    name: as in the configuration. model: what it is called there. throttle: for kept requests.
    """

    def __init__(
        self,
        name: str,
        settings: answering.Upstream,
        metrics: Metrics,
        throttle: Throttle | None = None,
    ) -> None:
        self.name = name
        self.model = settings.model or name
        self.settings = settings
        self.breaker = Breaker(settings.breaker)
        self.latency: float | None = None
        self._metrics = metrics
        self._throttle = throttle
        self._connections = Connections(settings)
        self._probe = Probe(name, settings, self._connections)
        self._skip_until = 0.0
        self._watchers: list[Callable[[], None]] = []
        self._was_available = True
        self._retired = False
        self._state_shown = "closed"
        self._loop = Loop(f"upstream {name}", self._turn, tick=1.0)
        self._measure()

    @property
    def link(self) -> Link:
        """Whether its server can be reached."""
        return self._probe.link

    def unavailable(self) -> NoRoute | None:
        """Why it cannot be asked now, with `retry_after`; None if it may be tried."""
        left_alone = self._skip_until - time.monotonic()
        if left_alone > 0:
            return NoRoute(
                f"upstream `{self.name}` asked to be left alone for another {left_alone:.0f} s",
                retry_after=left_alone,
            )
        blocked = self.breaker.blocked()
        if blocked is not None:
            state = f"failed lately; it is tried again in {blocked:.0f} s"
            if self.link == "down":
                state = "cannot be reached; it is looked for every second or two"
            return NoRoute(f"upstream `{self.name}` {state}", retry_after=blocked)
        return None

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever it may be asked again, or can be reached again."""
        self._watchers.append(changed)

    def retire(self) -> None:
        """It is not in the configuration any more: calls under way end, and the metrics of its
        name are another's, or nobody's."""
        self._retired = True

    async def run(self) -> None:
        """Looks after the link until `stop`."""
        try:
            await self._loop.run()
        finally:
            await self._connections.forget()

    async def stop(self) -> None:
        """`run` returns soon after. Calls under way are closed by those who asked."""
        self._loop.stop()
        self._probe.stop()
        await self._connections.forget()

    async def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers. began: monotonic time of the request's arrival.

        Raises `NoRoute` when it cannot be asked (nothing is sent then, and nothing counted), and
        `UpstreamError`, `UpstreamTimeout`, `RateLimited`, `UpstreamRefusal`, `ContentFiltered`,
        `DeadlineExceeded`.
        """
        if reason := self.unavailable():
            raise reason
        deadline, ends = request.deadline, began + self.settings.timeouts.total
        calls = orders(request, self.name, self.settings)
        if request.kept and self._throttle is not None:
            waited = await self._wait_for_turn(self._throttle, calls, deadline)
            # Waiting here is our own doing, not the upstream's.
            ends += waited
            deadline = None if deadline is None else deadline - waited
            if reason := self.unavailable():
                raise reason
        if ends <= time.monotonic():
            raise of_total(self.name, self.settings.timeouts.total, its_own=False).error
        key = read_key(self.name, self.settings)
        attempt = Attempt(self.name, self.settings, calls, key, ends)
        permit = self.breaker.enter()
        outcome = "cancelled"
        try:
            async with aclosing(attempt.parts(self._connections, deadline)) as parts:
                async for some in parts:
                    if attempt.complete:
                        outcome = "ok"
                        self._succeeded(permit, attempt)
                    yield some
        except CallFailed as failed:
            outcome = failed.failure.outcome
            await self._failed(permit, failed.failure)
            raise failed.failure.error from None
        except EdgeError as error:
            outcome = error.code
            raise
        finally:
            self.breaker.left(permit)
            self._metrics.upstream_requests.labels(self.name, outcome).inc()
            if request.kept and self._throttle is not None:
                self._throttle.charge(attempt.received + HEADERS * len(calls))
            # The loop may be busy until it may be asked again, and then it has to know of this.
            self._was_available &= self.unavailable() is None
            self._loop.wake()
            self._measure()

    async def _wait_for_turn(
        self, throttle: Throttle, calls: list[Order], deadline: float | None
    ) -> float:
        """Seconds that the throttle made it wait."""
        began = time.monotonic()
        size = sum(len(call.body) + HEADERS for call in calls)
        turn = asyncio.ensure_future(throttle.wait(size))
        try:
            done, _ = await asyncio.wait({turn}, timeout=deadline)
        finally:
            turn.cancel()
        if not done:
            assert deadline is not None
            raise deadline_exceeded(deadline)
        return time.monotonic() - began

    def _succeeded(self, permit: Permit, attempt: Attempt) -> None:
        self.breaker.succeeded(permit)
        self._probe.answered()
        first = attempt.first_after
        if first is not None:
            late = first if self.latency is None else self.latency
            self.latency = late + SMOOTHING * (first - late)

    async def _failed(self, permit: Permit, failure: Failure) -> None:
        if failure.skip is not None:
            self._skip_until = time.monotonic() + failure.skip
        if failure.verdict == "failed":
            before = self.breaker.state
            self.breaker.failed(permit, reached=failure.reached)
            if self.breaker.state == "open" != before:
                logger.warning("upstream %s is not asked for now: %s", self.name, failure.error)
        elif failure.verdict == "alive":
            self.breaker.alive(permit)
        if failure.reached is None:
            self._probe.doubt()
        elif failure.reached:
            self._probe.answered()
        else:
            await self._probe.lost(failure.error.message)

    async def _turn(self) -> None:
        """Probe when it is due, and tell the watchers what changed meanwhile."""
        was_down = self.link == "down"
        if time.monotonic() >= self._probe.due:
            await self._probe.ask()
        if self.link == "up":
            self.breaker.reachable()
        elif self.link == "down":
            self.breaker.unreachable()
        self._measure()
        reason = self.unavailable()
        available = reason is None
        if (available and not self._was_available) or (was_down and self.link == "up"):
            for changed in self._watchers:
                changed()
        self._was_available = available
        again = self._probe.due - time.monotonic()
        if reason is not None and reason.retry_after is not None:
            again = min(again, reason.retry_after)
        self._loop.tick = max(again, SHORTEST_TICK)

    def _measure(self) -> None:
        state = self.breaker.state
        if state != self._state_shown:
            self._state_shown = state
            logger.info("upstream %s: breaker is %s", self.name, state)
        if self._retired:
            return
        self._metrics.upstream_state.labels(self.name).set(STATES[state])
        self._metrics.upstream_link.labels(self.name).set(self.link == "up")
