"""Where a request may go: its route's targets in their order, and the line it waits in.

Policy only. Owned by the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from edge.answers.cache import AnswerCache
from edge.answers.keys import cacheable
from edge.config.tree import Config
from edge.errors import ModelNotFound, NoRoute
from edge.routing.target import Target
from edge.routing.walk import Walk
from edge.types import Part, Priority, Request, Sampling, Trail


class Router:
    """targets: by their names, `local:MODEL` and `cloud:UPSTREAM`. cache: of their answers.
    goes_away: whether requests of a class ask the cloud targets of their route first, whatever its
    order."""

    def __init__(
        self,
        config: Config,
        targets: Mapping[str, Target],
        cache: AnswerCache | None = None,
        goes_away: Callable[[Priority], bool] = lambda priority: False,
    ) -> None:
        self._config = config
        self._targets = targets
        self._cache = cache
        self._goes_away = goes_away

    def reconfigure(self, config: Config) -> None:
        self._config = config

    @property
    def models(self) -> list[str]:
        """The names that a request may ask for."""
        own = [name.removeprefix("local:") for name in self._targets if name.startswith("local:")]
        return list(dict.fromkeys([*self._config.routes, *own]))

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
            raise self._not_found(name)
        if request.route in ("local", "cloud"):
            found = [target for target in found if target.route == request.route]
        if self._goes_away(request.priority):
            found.sort(key=lambda target: target.route == "local")
        elif self._config.routing.offline_first:
            found.sort(key=lambda target: target.route != "local")
        if not found:
            raise NoRoute(
                f"`{name}` has no {request.route} target, and this request allows nothing else",
                param="edge.route",
            )
        return found

    def _not_found(self, name: str) -> ModelNotFound:
        """Of MODEL+ADAPTER it tells which of the two is missing."""
        base, plus, adapter = name.rpartition("+")
        reason = ""
        if plus and f"local:{base}" in self._targets:
            reason = f", for `{base}` has no adapter `{adapter}` here"
        elif plus:
            reason = f", for there is no model `{base}`"
        return ModelNotFound(
            f"the model `{name}` is not served here{reason}; these are: {', '.join(self.models)}",
            param="model",
        )

    def line(self, request: Request) -> str:
        """Where a kept request waits: with those that wait for the same."""
        route = "auto" if request.route == "queue" else request.route
        return f"{route} {self.model(request)}"

    def place(self, line: str, priority: Priority = "normal") -> Target | None:
        """The target that the next request of a line would go to now, None while there is none.

        Raises what `candidates` raises, for a line of an earlier configuration.
        """
        asked = self._of_line(line, priority)
        found = [target for target in asked if target.unavailable() is None]
        return next((target for target in found if target.at_hand), found[0] if found else None)

    def obstacle(self, line: str) -> str | None:
        """Why none of a line's targets can be asked now; None if one can. Raises like `place`."""
        refusals = [target.unavailable() for target in self._of_line(line)]
        if not all(refusals):
            return None
        return "; ".join(refusal.message for refusal in refusals if refusal is not None)

    def loading(self, line: str) -> str | None:
        """The model that a line's next request has to wait for; None if one is at hand. Raises like
        `place`."""
        target = self.place(line)
        return None if target is None or target.at_hand else target.model

    def reachable(self, line: str) -> bool:
        """False while nothing gets to any of a line's targets. Raises like `place`."""
        return any(target.reachable for target in self._of_line(line))

    async def stream(
        self, request: Request, trail: Trail, began: float
    ) -> AsyncGenerator[list[Part], None]:
        """Yield the pieces of all answers; the trail is filled in on the way.

        began: when the request arrived, by the monotonic clock. Raises an `EdgeError` when nobody
        can answer or go on.
        """
        cache = self._cache if cacheable(request, request.cache) else None
        walk = Walk(request, trail, began, cache)
        async with aclosing(walk.answers(self.candidates(request))) as parts:
            async for some in parts:
                yield some

    def _of_line(self, line: str, priority: Priority = "normal") -> list[Target]:
        route, _, model = line.partition(" ")
        asked = Request("", [], Sampling(), model=model, route=cast(Any, route), priority=priority)
        return self.candidates(asked)

    def _fastest_first(self, entry: str | Sequence[str]) -> list[Target]:
        """Of equals, those that can be asked now first, and then by time to the first token; one
        that was never asked is given its chance."""
        if isinstance(entry, str):
            return [self._targets[entry]]
        equals = [self._targets[name] for name in entry]
        return sorted(
            equals,
            key=lambda t: (t.unavailable() is not None, not t.at_hand, t.latency or 0.0),
        )
