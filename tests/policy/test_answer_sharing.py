"""One computation for all who ask the same: they come and leave, it fails and hangs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from edge.answers.cache import AnswerCache
from edge.errors import InternalError, Overloaded, UpstreamError
from edge.metrics import Metrics
from edge.store.answers import Answers
from edge.types import (
    Alternative,
    Delta,
    Energy,
    Finished,
    FinishReason,
    Part,
    TokenLogprob,
    Trail,
    Usage,
)

KEY = b"key"
TTL = 100.0
USAGE = Usage(7, 3, 5, 0.5, 1.5)
MEASURED = msgspec.structs.replace(USAGE, energy=Energy(2.0, {"gpu": 1.0}))


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def delta(text: str, token: int = 1, index: int = 0) -> Part:
    logprob = TokenLogprob(Alternative(token, text.encode(), -0.5), [])
    return Part(index, Delta(f"id.{index}", [token], text, [logprob]))


def end(reason: FinishReason = "stop", index: int = 0) -> Part:
    return Part(index, Finished(f"id.{index}", reason, USAGE))


@dataclass
class Source:
    """A source that goes on when it is told, and remembers what happened to it."""

    opened: int = 0
    closed: int = 0
    feed: asyncio.Queue[list[Part] | Exception | None] = field(default_factory=asyncio.Queue)
    trail: Trail = field(default_factory=Trail)

    async def __call__(self) -> AsyncGenerator[list[Part], None]:
        self.opened += 1
        try:
            while (some := await self.feed.get()) is not None:
                if isinstance(some, Exception):
                    raise some
                self.trail.route, self.trail.model = "cloud", "far-away"
                yield some
        finally:
            await asyncio.sleep(0)  # closing takes a moment
            self.closed += 1

    def give(self, *some: list[Part] | Exception | None) -> Source:
        for one in some:
            self.feed.put_nowait(one)
        return self


@dataclass
class Setup:
    cache: AnswerCache
    answers: Answers
    metrics: Metrics
    clock: Clock

    def listen(
        self, source: Source, trail: Trail | None = None
    ) -> AsyncGenerator[list[Part], None]:
        return self.cache.through(KEY, source, trail or source.trail)

    async def settled(self) -> None:
        """Until what was computed is kept."""
        await self.cache.stop()

    def count(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"edge_answer_cache_{name}_total") or 0.0


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    clock, metrics = Clock(), Metrics()
    async with Answers(tmp_path / "cache.sqlite", 1 << 20, clock=clock) as answers:
        yield Setup(AnswerCache(answers, TTL, metrics, clock=clock), answers, metrics, clock)


async def heard(pieces: AsyncGenerator[list[Part], None]) -> list[Part]:
    async with aclosing(pieces):
        return [part async for some in pieces for part in some]


def text_of(parts: list[Part]) -> str:
    return "".join(part.event.text for part in parts if isinstance(part.event, Delta))


async def test_a_kept_answer(setup: Setup) -> None:
    """As one piece, with text, tokens, log probabilities, reason, usage and model of the first."""
    first = Source().give([delta("a", 1)], [delta("b", 2), end("length")], None)
    assert len(await heard(setup.listen(first))) == 3
    await setup.settled()
    second, trail = Source(), Trail()
    async with aclosing(setup.listen(second, trail)) as pieces:
        (parts,) = [some async for some in pieces]
    assert second.opened == 0
    assert (trail.route, trail.model) == ("cache", "far-away")
    whole, finished = (part.event for part in parts)
    assert isinstance(whole, Delta)
    assert (whole.text, whole.tokens) == ("ab", [1, 2])
    assert [entry.chosen.raw for entry in whole.logprobs] == [b"a", b"b"]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage) == ("length", USAGE)
    assert [setup.count(name) for name in ("queries", "hits", "shared", "errors")] == [2, 1, 0, 0]


async def test_several_answers_in_one(setup: Setup) -> None:
    """Each keeps its number, also one without any text."""
    pieces = [delta("b", 1, index=1)], [end(index=1), delta("a", 2), end(), end("length", 2)]
    await heard(setup.listen(Source().give(*pieces, None)))
    await setup.settled()
    parts = await heard(setup.listen(Source()))
    assert [part.index for part in parts] == [0, 0, 1, 1, 2, 2]
    assert [text_of(parts[at : at + 2]) for at in (0, 2, 4)] == ["a", "b", ""]


async def test_an_answer_grows_too_old(setup: Setup) -> None:
    """Past its time it is computed again."""
    await heard(setup.listen(Source().give([delta("old"), end()], None)))
    await setup.settled()
    setup.clock.now += TTL + 1
    parts = await heard(setup.listen(Source().give([delta("new"), end()], None)))
    assert text_of(parts) == "new"


@pytest.mark.parametrize(
    "pieces",
    [
        [[delta("cut")]],
        [],
        [[delta("filtered"), end("content_filter")]],
        [[delta("one"), end(), delta("no end", index=1)]],
        [[end(index=1)]],
    ],
)
async def test_what_did_not_end_whole_is_not_kept(setup: Setup, pieces: list[list[Part]]) -> None:
    """Nor is an answer of several of which one did not."""
    for _ in range(2):
        source = Source().give(*pieces, None)
        await heard(setup.listen(source))
        await setup.settled()
        assert source.opened == 1


async def test_who_comes_later_hears_it_from_the_beginning(setup: Setup) -> None:
    """Piece by piece as they come, with the route and the model of the one computation."""
    source, other, trail = Source(), Source(), Trail()
    async with aclosing(setup.listen(source)) as first:
        source.give([delta("a")])
        assert text_of(await anext(first)) == "a"
        source.give([delta("b")])
        assert text_of(await anext(first)) == "b"
        async with aclosing(setup.listen(other, trail)) as second:
            assert text_of(await anext(second)) == "ab"
            assert (trail.route, trail.model) == ("cloud", "far-away")
            source.give([delta("c"), end()], None)
            assert text_of(await heard(second)) == "c"
        assert text_of(await heard(first)) == "c"
    assert (source.opened, source.closed, other.opened) == (1, 1, 0)
    assert [setup.count(name) for name in ("queries", "hits", "shared")] == [2, 0, 1]


def energy_of(parts: list[Part]) -> Energy | None:
    (ending,) = (part.event for part in parts if isinstance(part.event, Finished))
    return ending.usage.energy


async def test_one_computation_is_billed_once(setup: Setup) -> None:
    """To who asked first: who listens along has used nothing, and so has who asks later."""
    source = Source()
    async with aclosing(setup.listen(source)) as first:
        source.give([delta("a")])
        await anext(first)
        async with aclosing(setup.listen(Source(), Trail())) as second:
            source.give([Part(0, Finished("id.0", "stop", MEASURED))], None)
            assert energy_of(await heard(second)) == Energy(0.0, {"gpu": 0.0})
        assert energy_of(await heard(first)) == MEASURED.energy
    await setup.settled()
    assert energy_of(await heard(setup.listen(Source()))) is None


async def test_the_first_caller_leaves(setup: Setup) -> None:
    """The others hear the answer to its end, and it is kept."""
    source = Source()
    first, second = setup.listen(source), setup.listen(Source())
    source.give([delta("a")])
    await anext(first)
    await anext(second)
    await first.aclose()
    assert source.closed == 0
    source.give([delta("b"), end()], None)
    assert text_of(await heard(second)) == "b"
    await setup.settled()
    assert text_of(await heard(setup.listen(Source()))) == "ab"


async def test_the_last_caller_leaves(setup: Setup) -> None:
    """When it has left, the source is closed; nothing is kept, and the next computes anew."""
    source = Source().give([delta("a")])
    listeners = [setup.listen(source) for _ in range(3)]
    for listener in listeners:
        await anext(listener)
    for listener in listeners:
        assert source.closed == 0
        await listener.aclose()
    assert source.closed == 1
    again = Source().give([delta("b"), end()], None)
    assert text_of(await heard(setup.listen(again))) == "b"


async def test_a_slow_listener_holds_nobody_back(setup: Setup) -> None:
    """It gets what it has missed at once."""
    source = Source()
    slow, quick = setup.listen(source), setup.listen(Source())
    source.give([delta("0")])
    await anext(slow)
    source.give(*([delta(str(number))] for number in range(1, 500)), [end()], None)
    parts = await heard(quick)
    assert len(parts) == 501
    assert len(await anext(slow)) == 500
    assert await heard(slow) == []


async def test_an_error_goes_to_all_who_listen(setup: Setup) -> None:
    """After the pieces that came before it; who comes later computes anew."""
    source = Source().give([delta("a")])
    listeners = [setup.listen(source) for _ in range(3)]
    for listener in listeners[:2]:
        await anext(listener)
    error = UpstreamError("it broke", retry_after=3.0)
    source.give(error)
    for listener in listeners[:2]:
        with pytest.raises(UpstreamError) as raised:
            await anext(listener)
        assert raised.value is error
    source.give([delta("b"), end()], None)
    assert text_of(await heard(listeners[2])) == "b"
    assert (source.opened, source.closed) == (2, 2)


async def test_a_refusal_before_the_first_piece(setup: Setup) -> None:
    """It is raised by the first step, as without a cache."""
    source = Source().give(Overloaded("full", retry_after=1.0))
    with pytest.raises(Overloaded):
        await anext(setup.listen(source))


async def test_a_cancelled_computation_is_no_silence(setup: Setup) -> None:
    """Listeners of a computation that is ended with the daemon get an error."""
    source = Source().give([delta("a")])
    listener = setup.listen(source)
    await anext(listener)
    await setup.cache.stop()
    with pytest.raises(InternalError):
        await anext(listener)
    assert source.closed == 1
    again = Source().give([delta("b"), end()], None)
    assert text_of(await heard(setup.listen(again))) == "b"


async def test_a_computation_that_never_began(setup: Setup) -> None:
    """Cancelled before its first step, it is an error as well."""
    source = Source()
    listening = asyncio.create_task(heard(setup.listen(source)))
    await asyncio.sleep(0)
    await setup.cache.stop()
    with pytest.raises(InternalError):
        await listening
    assert source.opened == 0


async def test_a_store_that_fails(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """Answering goes on without it; it is counted and not logged for each."""
    await setup.answers.__aexit__(None, None, None)
    for _ in range(3):
        parts = await heard(setup.listen(Source().give([delta("a"), end()], None)))
        assert text_of(parts) == "a"
        await setup.settled()
    assert setup.count("errors") == 6
    assert caplog.records == []


async def test_a_body_of_another_shape(setup: Setup) -> None:
    """What cannot be read is as good as nothing, and is written over."""
    await setup.answers.put(KEY, b"\xc1 no answer")
    assert text_of(await heard(setup.listen(Source().give([delta("a"), end()], None)))) == "a"
    await setup.settled()
    assert text_of(await heard(setup.listen(Source()))) == "a"
    assert setup.count("errors") == 1


async def test_old_answers_are_removed_in_the_background(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the loop that the daemon runs."""
    await setup.answers.put(b"old", b"body")
    setup.clock.now += TTL + 1
    removed: asyncio.Queue[int] = asyncio.Queue()
    expire = setup.answers.expire

    async def watched(before: float) -> int:
        removed.put_nowait(await expire(before))
        return 0

    monkeypatch.setattr(setup.answers, "expire", watched)
    running = asyncio.create_task(setup.cache.run())
    assert await removed.get() == 1
    await setup.cache.stop()
    await running


class Fault(Exception):
    """What a computation of the random schedules ends with."""


class Computations:
    """Makes sources that do what chance wants, and checks that there is one at a time."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.number = 0
        self.live = 0
        self.whole: set[int] = set()
        self.failed: set[int] = set()

    async def source(self) -> AsyncGenerator[list[Part], None]:
        self.number += 1
        number, chance = self.number, self.chance
        assert self.live == 0
        self.live += 1
        pieces, fate = chance.randrange(12), chance.choice(["whole", "whole", "fails", "hangs"])
        closing = False
        try:
            for at in range(pieces):
                await pause(chance)
                yield [delta(f"{number}.{at} ")]
            await pause(chance)
            if fate == "hangs":
                await asyncio.get_running_loop().create_future()
            if fate == "fails":
                self.failed.add(number)
                raise Fault
            self.whole.add(number)
            yield [delta(f"{number}.end "), end()]
        except (GeneratorExit, asyncio.CancelledError):
            closing = True
            raise
        finally:
            self.live -= 1
            if closing:
                await pause(chance)


async def pause(chance: random.Random) -> None:
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 5])):
        await asyncio.sleep(0)


def check(text: str, computations: Computations, outcome: str) -> None:
    """What a listener heard: one computation from its beginning on, to its end if it stayed."""
    words = text.split()
    numbers = {int(word.split(".")[0]) for word in words}
    assert len(numbers) <= 1, text
    order = [word.split(".")[1] for word in words]
    ended = order[-1:] == ["end"]
    assert order[: len(order) - ended] == [str(at) for at in range(len(order) - ended)], text
    if outcome == "heard":
        assert ended
        assert numbers <= computations.whole
    if outcome == "failed":
        assert not ended
        assert numbers <= computations.failed


async def listener(cache: AnswerCache, key: bytes, computations: Computations) -> str:
    """Comes, hears for a while at its own speed, and perhaps leaves."""
    chance = computations.chance
    for _ in range(chance.randrange(40)):
        await asyncio.sleep(0)
    leaves_after = chance.choice([0, 1, 3, 1000])
    text, outcome = "", "left"
    try:
        async with aclosing(cache.through(key, computations.source, Trail())) as pieces:
            async for parts in pieces:
                text += text_of(parts)
                if leaves_after == 0:
                    break
                leaves_after -= 1
                await pause(chance)
            else:
                outcome = "heard"
    except Fault:
        outcome = "failed"
    check(text, computations, outcome)
    return outcome


async def test_random_schedules(setup: Setup) -> None:
    """Whatever the order, each hears what is due to it, and nothing is left over."""
    outcomes: dict[str, int] = {}
    for seed in range(400):
        chance = random.Random(seed)
        computations = Computations(chance)
        key = seed.to_bytes(4, "big")
        tasks = [
            asyncio.create_task(listener(setup.cache, key, computations))
            for _ in range(chance.randrange(1, 9))
        ]
        # Some are cancelled from outside, at times twice, wherever they are.
        for task in tasks:
            await pause(chance)
            if chance.random() < 0.3:
                for _ in range(chance.randrange(1, 3)):
                    task.cancel()
                    await pause(chance)
        # Those that hear a source which hangs have to leave.
        _, hanging = await asyncio.wait(tasks, timeout=0.02)
        for task in hanging:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
            outcome = result if isinstance(result, str) else "cancelled"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        await setup.settled()
        assert computations.live == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        kept = await setup.answers.get(key, 0)
        assert (kept is not None) == bool(computations.whole)
    # Chance has tried everything.
    assert min(outcomes[name] for name in ("heard", "failed", "left", "cancelled")) > 50
