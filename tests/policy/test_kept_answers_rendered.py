"""A kept answer becomes the same body as the one that was computed, by the code of the doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from edge.answers.cache import AnswerCache
from edge.metrics import Metrics
from edge.openai import render
from edge.openai.asked import Asked
from edge.openai.collect import collect
from edge.openai.replay import decode_answer, parts_of
from edge.openai.response import Response
from edge.openai.response_stream import ResponseEvents
from edge.openai.shape import Chat, Completion, Shape
from edge.store.answers import Answers
from edge.types import (
    Alternative,
    CallPiece,
    Delta,
    Energy,
    Finished,
    FinishReason,
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
CALLS = [
    CallPiece(0, "call_a", "f"),
    CallPiece(0, arguments='{"a":'),
    CallPiece(0, arguments=" 1}"),
    CallPiece(1, "call_b", "g"),
    CallPiece(1, arguments="{}"),
]
REASONS: list[FinishReason] = ["stop", "tool_calls", "length", "length"]


async def computed() -> AsyncGenerator[list[Part], None]:
    """Four answers side by side, each a little different."""
    for at, word in enumerate(WORDS):
        await asyncio.sleep(0)
        for index in range(REQUEST.answers):
            best = Alternative(at, word.encode(), -0.25 * index)
            entry = TokenLogprob(best, [best, Alternative(99, b"\xf0\x9f", -9.0)])
            yield [Part(index, Delta(f"id.{index}", [at, index], word, [entry]))]
    for piece in CALLS:
        yield [Part(1, Delta("id.1", [7], "", calls=[piece]))]
    for index in range(REQUEST.answers):
        energy = Energy(1.5 + index, {"gpu": 1.0})
        usage = Usage(5 + index, index, len(WORDS), 0.5, 0.25, energy=energy)
        reason = REASONS[index]
        yield [Part(index, Finished(f"id.{index}", reason, usage))]


async def none() -> AsyncGenerator[list[Part], None]:
    raise AssertionError("this was to come out of the file")
    yield


async def test_the_same_out_of_the_ledger() -> None:
    """A whole answer that was kept becomes pieces which make the same answer again."""
    trail = Trail(model="m")
    first = await collect(Asked(REQUEST, Chat(REQUEST), computed(), trail, created=1))

    async def replayed() -> AsyncGenerator[list[Part], None]:
        yield parts_of(decode_answer(render.encode(first)))

    again = await collect(Asked(REQUEST, Chat(REQUEST), replayed(), trail, created=1))
    assert again.choices == first.choices
    assert first.edge
    assert again.edge == first.edge
    answers = REQUEST.answers
    assert first.edge.energy_joules == 1.5 * answers + sum(range(answers))
    assert first.edge.rails_joules == {"gpu": 1.0 * answers}
    message = again.choices[1]["message"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": 1}', "{}"]
    assert again.choices[1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("shape", [Chat(REQUEST), Completion(REQUEST)])
async def test_the_same_body(tmp_path: Path, shape: Shape) -> None:
    """Texts, calls, log probabilities with their offsets, reasons and usage of several answers."""
    bodies = []
    async with Answers(tmp_path / "cache.sqlite", 1 << 20) as answers:
        cache = AnswerCache(answers, 100.0, Metrics())
        for source in (computed, none):
            trail = Trail(model="m")
            pieces = cache.through(b"key", source, trail)
            answer = await collect(Asked(REQUEST, shape, pieces, trail, created=1))
            assert answer.edge
            kept = source is none
            assert (answer.edge.route, answer.edge.energy_joules == 0) == (
                "cache" if kept else "local",
                kept,
            )
            answer.edge = msgspec.UNSET  # tells where it came from
            bodies.append(render.encode(answer))
            await cache.stop()
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("which", [0, 1], ids=["text", "calls"])
async def test_the_same_end_of_a_stream(tmp_path: Path, which: int) -> None:
    """The typed events of a Response take the one large piece as well as many small ones."""
    texts = []
    async with Answers(tmp_path / "cache.sqlite", 1 << 20) as answers:
        cache = AnswerCache(answers, 100.0, Metrics())

        async def first_only() -> AsyncGenerator[list[Part], None]:
            async for parts in computed():
                if parts[0].index == which:
                    yield [Part(0, part.event) for part in parts]

        for source in (first_only, none):
            response = Response(
                id="resp_id", created_at=1, status="in_progress", model="m", background=False
            )
            trail = Trail()
            events = ResponseEvents(response, trail)
            async for parts in cache.through(b"key", source, trail):
                events.pieces(parts)
            assert response.edge
            assert response.edge.energy_joules == (0 if source is none else 1.5 + which)
            response.edge = msgspec.UNSET  # tells where it came from
            texts.append((response.status, render.encode(response)))
            await cache.stop()
    assert texts[0] == texts[1]
    assert texts[0][0] == "completed"
