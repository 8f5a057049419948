"""Generations for the appliance's own ends: asked of a runner directly, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from edge.errors import EdgeError, from_code
from edge.runtime.runner import ModelRunner
from edge.types import Delta, Event, Failed, Finished, Generation, TokenLogprob


class Said(msgspec.Struct):
    """One whole answer."""

    finished: Finished
    text: str = ""
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []


async def ask(runner: ModelRunner, generations: Sequence[Generation]) -> list[Said]:
    """All at once; their answers in the same order. Ids must not be those of other requests.

    Raises the first `EdgeError` that one of them ends with; the others are cancelled then, as all
    are when the caller is cancelled.
    """
    heard: asyncio.Queue[Event] = asyncio.Queue()
    said: dict[str, list[Delta]] = {generation.id: [] for generation in generations}
    ends: dict[str, Finished] = {}
    try:
        for generation in generations:
            runner.submit(generation, heard.put_nowait)
        while len(ends) < len(said):
            event = await heard.get()
            if isinstance(event, Delta):
                said[event.id].append(event)
            elif isinstance(event, Failed):
                raise from_code(event.code, event.message)
            elif isinstance(event, Finished):
                ends[event.id] = event
    except (EdgeError, asyncio.CancelledError):
        for name in said:
            runner.cancel(name)
        raise
    return [_whole(said[name], ends[name]) for name in said]


def _whole(deltas: list[Delta], finished: Finished) -> Said:
    return Said(
        finished,
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.tokens],
        [entry for delta in deltas for entry in delta.logprobs],
    )
