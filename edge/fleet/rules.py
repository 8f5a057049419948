"""What the fleet has to keep to, and where its models come from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.runtime.guard import Room
from edge.runtime.runner import ModelRunner
from edge.types import Adapter


@dataclass(frozen=True)
class Rules:
    """turn: seconds that a busy model keeps its memory after another was asked for. ttl: seconds
    after which an idle one is unloaded, None for never. cap: bytes for all workers, None for what
    the machine has. pinned: never unloaded. at_start: loaded although nobody asks."""

    turn: float = 10.0
    ttl: float | None = None
    cap: int | None = None
    pinned: frozenset[str] = frozenset()
    at_start: tuple[str, ...] = ()


class Source(Protocol):
    """Where models come from."""

    def names(self) -> list[str]:
        """All that are installed."""

    def path(self, name: str) -> Path | None:
        """The file that a name means now; None for one that no request may ask for."""

    def adapter(self, name: str) -> Adapter | None:
        """What the model of that name is loaded with."""

    def prepare(
        self, name: str, room: Callable[[], Room], loading: asyncio.Lock
    ) -> tuple[ModelRunner, ExitStack]:
        """A runner that was not started, and what keeps its file. Called on a thread.

        room, loading: for its guard. Raises `EdgeError`.
        """
