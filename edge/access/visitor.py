"""Somebody who was let in: what he may ask for, and what is his."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from edge.access.key import EVERYTHING, Key
from edge.access.meter import Account, Meter, caller_of
from edge.errors import Forbidden
from edge.store.usage import DayUsage
from edge.types import Priority

ANYBODY = "anybody"
"""Whose the requests are that need no key."""

ANYBODYS = ""
"""The owner of what was made without a key."""


class Visitor:
    """key: None where none is needed, and he may do everything."""

    def __init__(self, key: Key | None, meter: Meter) -> None:
        self._key = key
        self._meter = meter
        self._scope = EVERYTHING if key is None else key.scope

    @property
    def name(self) -> str:
        return ANYBODY if self._key is None else self._key.name

    @property
    def key(self) -> Key | None:
        return self._key

    @property
    def caller(self) -> str:
        """Of his requests; empty without a key."""
        return "" if self._key is None else caller_of(self._key)

    @property
    def account(self) -> Account:
        return self._meter.account(self.name)

    # What is his

    @property
    def owner(self) -> str:
        """Of what is made for him: the name of his key."""
        return ANYBODYS if self._key is None else self._key.name

    @property
    def owners(self) -> frozenset[str] | None:
        """Whose things he finds; None for everybody's. What is not theirs is not there for him.

        An administrator also looks after what was made while no keys were needed.
        """
        if self._key is None:
            return None
        return frozenset({self.owner, ANYBODYS} if self._scope.admin else {self.owner})

    def finds(self, owner: str) -> bool:
        return self.owners is None or owner in self.owners

    # What he may ask for

    def check(self, model: str, priority: Priority, route: str) -> None:
        """Raises `Forbidden` for what the key is not for. route: that the request asks for; with
        `auto` and a key that is `local_only` the door asks for `local`."""
        self.check_model(model)
        self.check_priority(priority)
        if self._scope.local_only and route == "cloud":
            raise self._forbidden("the cloud", "edge.route")

    def check_model(self, model: str) -> None:
        """Raises `Forbidden` where the key is not for it."""
        if not self._scope.allows_model(model):
            raise self._forbidden(f"the model `{model}`", "model")

    def check_priority(self, priority: Priority) -> None:
        """Raises `Forbidden` where the key is not for it."""
        if self._scope.priorities is not None and priority not in self._scope.priorities:
            raise self._forbidden(f"{priority} requests", "edge.priority")

    def check_admin(self) -> None:
        if self._key is not None and not self._scope.admin:
            raise self._forbidden("administration", None)

    @property
    def local_only(self) -> bool:
        return self._scope.local_only

    # How much

    async def days(self) -> Sequence[DayUsage]:
        """What the key has used on the days before this one, the latest first."""
        return [] if self._key is None else await self._meter.days(self.name)

    @property
    def exhausted(self) -> bool:
        """Whether the key has used all tokens that it has on this day."""
        return self._key is not None and self._meter.exhausted(self._key)

    def admitted(self) -> AbstractContextManager[Account | None]:
        """For as long as a request of his runs. Raises `RateLimited`."""
        return nullcontext() if self._key is None else self._meter.admitted(self._key)

    def _forbidden(self, what: str, param: str | None) -> Forbidden:
        return Forbidden(f"the key {self.name!r} is not for {what}", param=param)
