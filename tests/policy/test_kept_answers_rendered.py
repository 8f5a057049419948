"""A kept answer becomes the same body as the one that was computed, by the code of the doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from edge.answers import AnswerCache
from edge.metrics import Metrics
from edge.openai import render
from edge.openai.asked import Asked
from edge.openai.collect import collect
from edge.openai.response import Response
from edge.openai.response_stream import ResponseEvents
from edge.openai.shape import Chat, Completion, Shape
from edge.store.answers import Answers
from edge.types import (
    Alternative,
    Delta,
    Finished,
    Part,
    Request,
    Sampling,
    TextPrompt,
    TokenLogprob,
    Trail,
    Usage,
)

REQUEST = Request("id", [TextPrompt("a"), TextPrompt("b")], Sampling(), n=2, logprobs=1)
WORDS = ["wärm", " as", " the", "", " sea 🌊"]


async def computed() -> AsyncGenerator[list[Part], None]:
    """Four answers side by side, each a little different."""
    for at, word in enumerate(WORDS):
        await asyncio.sleep(0)
        for index in range(REQUEST.answers):
            best = Alternative(at, word.encode(), -0.25 * index)
            entry = TokenLogprob(best, [best, Alternative(99, b"\xf0\x9f", -9.0)])
            yield [Part(index, Delta(f"id.{index}", [at, index], word, [entry]))]
    for index in range(REQUEST.answers):
        usage = Usage(5 + index, index, len(WORDS), 0.5, 0.25)
        yield [Part(index, Finished(f"id.{index}", "length" if index else "stop", usage))]


async def none() -> AsyncGenerator[list[Part], None]:
    raise AssertionError("this was to come out of the file")
    yield


@pytest.mark.parametrize("shape", [Chat(REQUEST), Completion(REQUEST)])
async def test_the_same_body(tmp_path: Path, shape: Shape) -> None:
    """Texts, log probabilities with their offsets, reasons and usage of several answers."""
    bodies = []
    async with Answers(tmp_path / "cache.sqlite", 1 << 20) as answers:
        cache = AnswerCache(answers, 100.0, Metrics())
        for source in (computed, none):
            trail = Trail(model="m")
            pieces = cache.through(b"key", source, trail)
            answer = await collect(Asked(REQUEST, shape, pieces, trail, created=1))
            answer.edge = msgspec.UNSET  # tells where it came from
            bodies.append(render.encode(answer))
            await cache.stop()
    assert bodies[0] == bodies[1]


async def test_the_same_end_of_a_stream(tmp_path: Path) -> None:
    """The typed events of a Response take the one large piece as well as many small ones."""
    texts = []
    async with Answers(tmp_path / "cache.sqlite", 1 << 20) as answers:
        cache = AnswerCache(answers, 100.0, Metrics())

        async def first_only() -> AsyncGenerator[list[Part], None]:
            async for parts in computed():
                if parts[0].index == 0:
                    yield parts

        for source in (first_only, none):
            response = Response(
                id="resp_id", created_at=1, status="in_progress", model="m", background=False
            )
            events = ResponseEvents(response)
            async for parts in cache.through(b"key", source, Trail()):
                events.pieces(parts)
            texts.append((response.status, render.encode(response)))
            await cache.stop()
    assert texts[0] == texts[1]
    assert texts[0][0] == "completed"
