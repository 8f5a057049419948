"""Work of milliseconds on a thread, so that the event loop goes on meanwhile.

One at a time: threads that compute in Python share one lock with the event loop, which would have
to wait for its turn among all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SMALL = 1 << 16
"""Bytes that are worth no thread: of JSON they take half a millisecond."""


class Aside:
    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What `work` returns or raises; done at once where `size` bytes are small."""
        if size <= SMALL:
            return work(*args, **named)
        async with self._turn:
            return await asyncio.to_thread(work, *args, **named)
