"""Requests to upstreams, and what comes back of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from edge.cloud.upstream import Upstream
from edge.types import ChatPrompt, Finished, Message, Part, Request, Sampling

TIMEOUTS = {"connect": 0.5, "first_token": 0.5, "stall": 0.3, "total": 20.0}
"""Seconds."""

Make = Callable[..., Upstream]
"""Makes an upstream of the fake cloud with settings of its own."""


def chat(*contents: str, **fields: Any) -> Request:
    """Contents are the user's and the assistant's in turn."""
    messages = [
        Message(("user", "assistant")[number % 2], content)
        for number, content in enumerate(contents or ("Say words.",))
    ]
    wanted = {"id": "req-1", "prompts": [ChatPrompt(messages)], "sampling": Sampling(), **fields}
    return Request(**wanted)


async def ask(
    upstream: Upstream, request: Request | None = None, began: float | None = None
) -> list[Part]:
    """All pieces. began: when the request came, if not now."""
    source = upstream.stream(request or chat(), began or time.monotonic())
    async with aclosing(source):
        return [part async for parts in source for part in parts]


def text_of(parts: list[Part], index: int = 0) -> str:
    return "".join(p.event.text for p in parts if p.index == index and hasattr(p.event, "text"))


def finish_of(parts: list[Part], index: int = 0) -> Finished:
    """The answer's end: there is exactly one, and it is the last of its pieces."""
    mine = [part.event for part in parts if part.index == index]
    ends = [event for event in mine if isinstance(event, Finished)]
    assert len(ends) == 1
    assert mine[-1] is ends[0]
    return ends[0]


async def until(probe: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true result."""
    end = time.monotonic() + seconds
    while not (result := probe()):
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.01)
    return result
