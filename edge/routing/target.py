"""What the router needs of those who answer: a model here, or one of an upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from edge.errors import EdgeError
from edge.types import Part, Request, Route


class Target(Protocol):
    """Who can answer a request. `name` as in the configuration, `model` the one that answers.

    retries: how often it may fail and be asked again within one request.
    latency: seconds to the first token, None while unknown.
    room: kept requests that it takes at once now; live ones are not asked.
    at_hand: False while a request would first wait for the model to be loaded.
    reachable: False while it is known that nothing gets there.
    identity: another one where the same request may have another answer.
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
    @property
    def at_hand(self) -> bool: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def identity(self) -> str: ...

    def filled_in(self, request: Request) -> Request:
        """The request with what is decided there where the caller has left it open."""

    def unavailable(self) -> EdgeError | None:
        """Why it cannot be asked now, None if it can. Only looks."""

    def fetch(self) -> None:
        """Have it at hand for later requests, where it can be had at nobody's expense."""

    def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        """The pieces of all answers, or an `EdgeError`. Closing it ends the work.

        began: when the request arrived, by the monotonic clock.
        """
