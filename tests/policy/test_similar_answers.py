"""Answers to the same in other words, with vectors that say whatever the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.answers.cache import AnswerCache
from edge.answers.keys import key
from edge.answers.likeness import likeness
from edge.answers.similar import SimilarAnswers
from edge.errors import ModelLoading
from edge.metrics import Metrics
from edge.store.answers import Answers
from edge.types import ChatPrompt, Delta, Finished, Message, Part, Request, Sampling, Trail, Usage

TTL = 100.0


async def same(text: str) -> bytes:
    """A model to which all texts are one."""
    return np.ones(4, "<f4").tobytes()


async def by_length(text: str) -> bytes:
    """An angle for each length: the cosine of 3 and 4 letters' is 0.995, that of 3 and 6 0.96."""
    return np.array([np.cos(len(text) / 10), np.sin(len(text) / 10)], "<f4").tobytes()


class Setup:
    def __init__(self, answers: Answers, embed: Callable[[str], Awaitable[bytes]]) -> None:
        self.answers = answers
        self.metrics = Metrics()
        self.now = 1_700_000_000.0
        self.similar = SimilarAnswers(answers, "minilm", embed, 0.99)
        self.computed: list[str] = []
        self.cache = self.opened()

    def opened(self) -> AnswerCache:
        return AnswerCache(
            self.answers, TTL, self.metrics, similar=self.similar, clock=lambda: self.now
        )

    async def ask(self, text: str, *, caller: str = "c", **fields: Any) -> tuple[str, str]:
        """The answer, which is the question that was computed, and its route."""
        prompt = ChatPrompt([Message("user", text)])
        request = Request("", [prompt], Sampling(temperature=0.0), **fields)

        async def source() -> AsyncGenerator[list[Part], None]:
            self.computed.append(text)
            end = Finished("", "stop", Usage(1, 0, 1, 0.1, 0.1))
            yield [Part(0, Delta("", [1], f"to {text}")), Part(0, end)]

        trail = Trail("local", "m")
        like = likeness(request, "t", caller, self.similar.embedder)
        pieces = self.cache.through(key(request, "t", caller), source, trail, like)
        async with aclosing(pieces):
            parts = [part for some in [one async for one in pieces] for part in some]
        if tasks := self.cache._tasks:
            await asyncio.wait(tasks)  # until it is kept
        return "".join(p.event.text for p in parts if isinstance(p.event, Delta)), trail.route

    def count(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"edge_answer_cache_{name}_total") or 0.0


@asynccontextmanager
async def opened(
    folder: Path, embed: Callable[[str], Awaitable[bytes]] = same
) -> AsyncIterator[Setup]:
    setup = None

    def clock() -> float:
        return 1_700_000_000.0 if setup is None else setup.now

    async with Answers(folder / "cache.sqlite", 1 << 20, clock=clock) as answers:
        setup = Setup(answers, embed)
        yield setup


async def test_other_words(tmp_path: Path) -> None:
    """They get the answer that is kept, and are told where it is from."""
    async with opened(tmp_path) as setup:
        assert await setup.ask("why 3 bar") == ("to why 3 bar", "local")
        assert await setup.ask("wherefore 3 bar") == ("to why 3 bar", "cache")
        assert (setup.count("similar"), setup.count("hits")) == (1, 1)
        assert await setup.ask("why 3 bar") == ("to why 3 bar", "cache")
        assert setup.count("similar") == 1


async def test_the_nearest_and_near_enough(tmp_path: Path) -> None:
    async with opened(tmp_path, by_length) as setup:
        for text in ("abc", "abcdefghi"):
            await setup.ask(text)
        assert await setup.ask("abcd") == ("to abc", "cache")
        assert await setup.ask("abcdefgh") == ("to abcdefghi", "cache")
        assert await setup.ask("abcdef") == ("to abcdef", "local")


async def test_nobody_elses(tmp_path: Path) -> None:
    """Another caller, other limits, other numbers: computed, though the vectors are equal."""
    async with opened(tmp_path) as setup:
        await setup.ask("why 3 bar")
        for text, fields in (
            ("wherefore 9 bar", {}),
            ("wherefore 3 bar", {"caller": "d"}),
            ("wherefore 3 bar", {"max_tokens": 5}),
        ):
            assert (await setup.ask(text, **fields))[1] == "local"
        assert setup.count("similar") == 0


async def test_time_and_restarts(tmp_path: Path) -> None:
    """Vectors are kept with their answers, for as long, and go with them."""
    async with opened(tmp_path) as setup:
        await setup.ask("why")
    async with opened(tmp_path) as setup:
        assert await setup.ask("wherefore") == ("to why", "cache")
        setup.now += TTL + 1
        assert (await setup.ask("how come"))[1] == "local"
        assert await setup.answers.expire(setup.now - TTL) == 1
        assert await setup.ask("why ever") == ("to how come", "cache")


async def test_without_its_model(tmp_path: Path) -> None:
    """The answer is computed and kept for who asks the same."""

    async def away(text: str) -> bytes:
        raise ModelLoading("not yet", retry_after=1)

    async with opened(tmp_path, away) as setup:
        assert (await setup.ask("why"))[1] == "local"
        assert (await setup.ask("wherefore"))[1] == "local"
        assert (await setup.ask("why"))[1] == "cache"


async def test_another_width_is_another_model(tmp_path: Path) -> None:
    """A model that was replaced under its name."""
    async with opened(tmp_path) as setup:
        await setup.ask("why")
    async with opened(tmp_path, by_length) as setup:
        assert (await setup.ask("wherefore"))[1] == "local"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.decimals(-999, 999, places=1), min_size=2, max_size=8, unique_by=str))
def test_numbers_never_share(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    """With a model to which all texts are one, each pressure has its own answer all the same."""

    async def ask_all() -> None:
        async with opened(tmp_path_factory.mktemp("numbers")) as setup:
            for value in values:
                text = f"What does a pressure of {value} bar mean?"
                assert await setup.ask(text) == (f"to {text}", "local")
            for value in values:
                other = f"Tell me, what does a pressure of {value} bar mean"
                text = f"What does a pressure of {value} bar mean?"
                assert await setup.ask(other) == (f"to {text}", "cache")

    asyncio.run(ask_all())
