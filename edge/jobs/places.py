"""What a line of the queue is to those who claim from it: whom its requests wait for."""

from __future__ import annotations

from typing import Protocol

from edge.types import Priority, Route


class Place(Protocol):
    """Where a kept request would be answered. route: `local` where it makes this machine warm.
    room: how many of them it takes at once now."""

    @property
    def name(self) -> str: ...
    @property
    def route(self) -> Route: ...
    @property
    def room(self) -> int: ...


class Lines(Protocol):
    """Whom the requests of a line wait for. All raise an `EdgeError` for a line that nobody can
    answer any more, because the configuration or the installed models have changed."""

    def place(self, line: str, priority: Priority) -> Place | None:
        """Where its next request of that class would go now; None while there is nobody to ask."""

    def obstacle(self, line: str) -> str | None:
        """Why nobody can be asked now; None if somebody can."""

    def loading(self, line: str) -> str | None:
        """The model that has to be loaded first; None if there is none."""

    def reachable(self, line: str) -> bool:
        """False while nothing gets to any of those who could be asked."""
