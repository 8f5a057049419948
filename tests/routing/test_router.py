"""The walk along a route's targets: who is asked, who goes on, and how it ends."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from edge.config.answering import Routing
from edge.config.tree import Config
from edge.errors import (
    ContentFiltered,
    DeadlineExceeded,
    EdgeError,
    ModelLoading,
    ModelNotFound,
    NoRoute,
    Overloaded,
    RateLimited,
    UpstreamError,
    UpstreamTimeout,
)
from edge.routing.router import Router
from edge.types import (
    CallPiece,
    ChatPrompt,
    Delta,
    Finished,
    Grammar,
    Message,
    Part,
    Request,
    Route,
    Sampling,
    TextPrompt,
    TokenPrompt,
    Tool,
    Tools,
    Trail,
    Usage,
)

WORDS = "w0 w1 w2 w3 w4 w5"
"""What every target here answers, a word and the blank before it at a time."""


class Scripted:
    """A target that says WORDS, from where the assistant left off; or fails as it is told.

    script: for each attempt, None for a whole answer, an error to begin with, or (n, error) to
    fail after n words. repeats: it begins anew instead of going on.
    """

    def __init__(
        self,
        name: str,
        *script: EdgeError | tuple[int, EdgeError] | None,
        retries: int = 0,
        latency: float | None = None,
        repeats: bool = False,
    ) -> None:
        self.name = name
        self.model = name.partition(":")[2] + "-model"
        self.route: Route = "local" if name.startswith("local:") else "cloud"
        self.script = list(script)
        self.retries = retries
        self.latency = latency
        self.repeats = repeats
        self.refusal: EdgeError | None = None
        self.asked: list[Request] = []
        self.open = 0

        self.room = 1
        self.at_hand = True
        self.fetched = 0
        self.reachable = True
        self.identity = name

    def unavailable(self) -> EdgeError | None:
        return self.refusal

    def fetch(self) -> None:
        self.fetched += 1

    def filled_in(self, request: Request) -> Request:
        return request

    async def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        self.asked.append(request)
        step = self.script.pop(0) if self.script else None
        self.open += 1
        try:
            if isinstance(step, EdgeError):
                raise step
            yield []
            for index in range(request.answers):
                words = self._words(request)
                for number, word in enumerate(words):
                    if step is not None and number == step[0] and index == request.answers - 1:
                        raise step[1]
                    yield [Part(index, Delta("", [], word))]
                yield [Part(index, Finished("", "stop", Usage(10, 0, len(words), 0.1, 0.1)))]
        finally:
            self.open -= 1

    def _words(self, request: Request) -> list[str]:
        prompt = request.prompts[0]
        said = ""
        if isinstance(prompt, ChatPrompt) and prompt.messages[-1].role == "assistant":
            said = prompt.messages[-1].content
        elif isinstance(prompt, TextPrompt):
            said = prompt.text.removeprefix("say: ")
        assert WORDS.startswith(said)
        left = WORDS if self.repeats else WORDS[len(said) :]
        words = [f" {word}" for word in left.split(" ")]
        words[0] = words[0].removeprefix(" ")
        return [word for word in words if word]


def ask(**fields: object) -> Request:
    chat = ChatPrompt([Message("user", "count")])
    return Request(**{"id": "r", "prompts": [chat], "sampling": Sampling(), "model": "m"} | fields)  # type: ignore[arg-type]


def router(*targets: Scripted, entry: object = None, **routing: bool) -> Router:
    """A route `m` over these targets in their order, or as `entry` says."""
    config = Config(routes={"m": entry or [t.name for t in targets]}, routing=Routing(**routing))  # type: ignore[dict-item]
    return Router(config, {target.name: target for target in targets})


class Outcome:
    """All that a caller of the router sees."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.finished: dict[int, Finished] = {}
        self.error: EdgeError | None = None
        self.trail = Trail()

    @property
    def attempts(self) -> list[tuple[str, str]]:
        return [(attempt.target, attempt.outcome) for attempt in self.trail.attempts]


async def run(routed: Router, request: Request) -> Outcome:
    outcome = Outcome()
    try:
        async with aclosing(routed.stream(request, outcome.trail, time.monotonic())) as parts:
            async for some in parts:
                for part in some:
                    if isinstance(part.event, Finished):
                        assert part.index not in outcome.finished
                        outcome.finished[part.index] = part.event
                    else:
                        text = outcome.texts.get(part.index, "")
                        outcome.texts[part.index] = text + part.event.text
    except EdgeError as error:
        outcome.error = error
    return outcome


def dead(message: str = "down") -> UpstreamError:
    return UpstreamError(message, again=True)


async def test_first_target_answers() -> None:
    """Nobody else is asked."""
    first, second = Scripted("cloud:a"), Scripted("local:b")
    outcome = await run(router(first, second), ask())
    assert outcome.texts == {0: WORDS}
    assert (outcome.trail.route, outcome.trail.model) == ("cloud", "a-model")
    assert outcome.attempts == [("cloud:a", "ok")]
    assert second.asked == []


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamError("500"),
        UpstreamTimeout("slow", again=True),
        RateLimited("429", retry_after=9),
        Overloaded("full", retry_after=1),
    ],
)
async def test_failure_moves_on(failure: EdgeError) -> None:
    """Before the first piece the next target answers, and the failure is on record."""
    first, second = Scripted("cloud:a", failure), Scripted("local:b")
    outcome = await run(router(first, second), ask())
    assert outcome.texts == {0: WORDS}
    assert outcome.attempts == [("cloud:a", failure.code), ("local:b", "ok")]
    assert outcome.trail.route == "local"


@pytest.mark.parametrize("fault", [ContentFiltered("no"), DeadlineExceeded("late")])
async def test_callers_fault_is_not_tried_elsewhere(fault: EdgeError) -> None:
    """Nor is a request whose time is over."""
    second = Scripted("local:b")
    outcome = await run(router(Scripted("cloud:a", fault), second), ask())
    assert outcome.error is fault
    assert second.asked == []


async def test_trail_of_a_failure_tells_who_was_tried_last() -> None:
    """In the metrics a cloud that fails is not a model here that does."""
    outcome = await run(router(Scripted("local:b", dead()), Scripted("cloud:a", dead())), ask())
    assert (outcome.trail.route, outcome.trail.model) == ("cloud", "a-model")


async def test_unavailable_target_is_passed_over_without_a_call() -> None:
    """An open breaker costs nothing."""
    first, second = Scripted("cloud:a"), Scripted("local:b")
    first.refusal = NoRoute("open", retry_after=7)
    outcome = await run(router(first, second), ask())
    assert first.asked == []
    assert outcome.attempts == [("cloud:a", "no_route"), ("local:b", "ok")]


async def test_what_would_have_to_be_loaded_is_passed_over_for_one_at_hand() -> None:
    """And is fetched for later requests; where nobody else can answer at once, it is asked."""
    first, second = Scripted("local:big"), Scripted("cloud:a")
    first.at_hand = False
    outcome = await run(router(first, second), ask())
    assert outcome.attempts == [("local:big", "loading"), ("cloud:a", "ok")]
    assert first.fetched == 1

    second.refusal = NoRoute("open", retry_after=7)
    outcome = await run(router(first, second), ask())
    assert outcome.attempts == [("local:big", "ok")]
    outcome = await run(router(first, second), ask(route="local"))
    assert outcome.attempts == [("local:big", "ok")]
    assert first.fetched == 1


async def test_of_equals_one_at_hand_is_asked_first() -> None:
    """Whatever their speed."""
    away, here = Scripted("local:a", latency=0.1), Scripted("local:b", latency=3.0)
    away.at_hand = False
    outcome = await run(router(away, here, entry=[["local:a", "local:b"]]), ask())
    assert outcome.attempts == [("local:b", "ok")]


def test_kept_requests_go_where_one_is_at_hand() -> None:
    """And it is known for which model they wait where none is."""
    first, second = Scripted("local:big"), Scripted("cloud:a")
    first.at_hand = False
    routed = router(first, second)
    assert routed.place("auto m") is second
    assert routed.loading("auto m") is None
    assert routed.place("local m") is first
    assert routed.loading("local m") == "big-model"


async def test_repeats_before_it_moves_on() -> None:
    """As often as the target's retries say; a time-out and a 429 only where nobody else is."""
    first, second = Scripted("cloud:a", dead(), dead(), retries=1), Scripted("local:b")
    outcome = await run(router(first, second), ask())
    assert [target for target, _ in outcome.attempts] == ["cloud:a", "cloud:a", "local:b"]

    first = Scripted("cloud:a", UpstreamTimeout("slow", again=True), retries=1)
    outcome = await run(router(first, Scripted("local:b")), ask())
    assert [target for target, _ in outcome.attempts] == ["cloud:a", "local:b"]

    outcome = await run(
        router(Scripted("cloud:a", UpstreamTimeout("slow", again=True), retries=1)), ask()
    )
    assert outcome.attempts == [("cloud:a", "upstream_timeout"), ("cloud:a", "ok")]

    limited = Scripted("cloud:a", RateLimited("429", retry_after=3), retries=1)
    outcome = await run(router(limited), ask())
    assert isinstance(outcome.error, RateLimited)
    assert len(limited.asked) == 1


@pytest.mark.parametrize(
    ("refusals", "failures", "expected"),
    [
        ((NoRoute("open", retry_after=7), None), (None, dead()), "upstream_error"),
        ((None, None), (dead(), UpstreamTimeout("slow", again=True)), "upstream_timeout"),
        ((None, NoRoute("open", retry_after=7)), (dead("first"), None), "upstream_error"),
        ((NoRoute("a", retry_after=7), NoRoute("b", retry_after=3)), (None, None), "no_route"),
    ],
)
async def test_verdict(
    refusals: Sequence[EdgeError | None], failures: Sequence[EdgeError | None], expected: str
) -> None:
    """How the last one that was tried has failed; no_route where nobody could be."""
    targets = [Scripted(f"cloud:{n}", failure) for n, failure in enumerate(failures)]
    for target, refusal in zip(targets, refusals, strict=True):
        target.refusal = refusal
    outcome = await run(router(*targets), ask())
    assert outcome.error is not None
    assert outcome.error.code == expected
    if expected == "no_route":
        assert outcome.error.retry_after == 3


async def test_only_target_says_itself_why_it_cannot() -> None:
    """A model that loads is `loading`, not a missing route."""
    target = Scripted("local:a")
    target.refusal = ModelLoading("loading", retry_after=5)
    assert (await run(router(target), ask())).error is target.refusal


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("cut_after", range(1, 6))
async def test_cut_answer_goes_on_elsewhere(cut_after: int, repeats: bool) -> None:
    """The caller's text is one answer, whether the next one goes on or begins anew; it is counted
    once."""
    first = Scripted("cloud:a", (cut_after, dead()))
    second = Scripted("local:b", repeats=repeats)
    outcome = await run(router(first, second), ask(max_tokens=100))
    assert outcome.texts == {0: WORDS}
    assert outcome.attempts == [("cloud:a", "upstream_error"), ("local:b", "ok")]
    asked = second.asked[0]
    assert asked.id != "r"
    assert asked.max_tokens == 100 - cut_after
    usage = outcome.finished[0].usage
    if not repeats:
        assert usage.completion_tokens == 6


async def test_cut_twice() -> None:
    """The third goes on from the text of both, also when the second had repeated the first's."""
    targets = [
        Scripted("cloud:a", (2, dead())),
        Scripted("cloud:b", (4, dead()), repeats=True),
        Scripted("local:c"),
    ]
    outcome = await run(router(*targets), ask())
    assert outcome.texts == {0: WORDS}
    assert len(outcome.attempts) == 3


async def test_cut_goes_on_at_the_same_target_where_it_is_the_last() -> None:
    """As long as it has retries left; then the answer ends with the error."""
    target = Scripted("cloud:a", (2, dead()), None, retries=1)
    outcome = await run(router(target), ask())
    assert outcome.texts == {0: WORDS}
    target = Scripted("cloud:a", (2, dead()), (1, dead("again")), None, retries=1)
    outcome = await run(router(target), ask())
    assert outcome.texts == {0: "w0 w1 w2"}
    assert outcome.finished == {}
    assert str(outcome.error) == "again"


@pytest.mark.parametrize(
    "fields",
    [
        {"on_cut": "fail"},
        {"logprobs": 0},
        {"prompts": [TokenPrompt([1, 2])]},
        {"grammar": Grammar("json_object")},
    ],
)
async def test_cut_that_cannot_go_on_ends_with_its_error(fields: dict[str, object]) -> None:
    """Because the caller says so, or because a text is not enough to go on from."""
    failure = dead()
    first, second = Scripted("cloud:a", (2, failure)), Scripted("local:b")
    outcome = await run(router(first, second), ask(**fields))
    assert outcome.error is failure
    assert outcome.finished == {}
    assert second.asked == []


async def test_kept_request_is_not_continued_where_it_was_cut() -> None:
    """It comes again as it was, with the same idempotency key, so that nobody answers it twice."""
    target = Scripted("cloud:a", (2, dead()), None, retries=1)
    outcome = await run(router(target), ask(kept=True))
    assert outcome.error is not None
    assert len(target.asked) == 1


async def test_several_answers_go_on_each_for_itself() -> None:
    """Those that had ended are not asked for again."""
    first, second = Scripted("cloud:a", (3, dead())), Scripted("local:b")
    outcome = await run(router(first, second), ask(n=3))
    assert outcome.texts == dict.fromkeys(range(3), WORDS)
    assert sorted(outcome.finished) == [0, 1, 2]
    assert len(second.asked) == 1


async def test_answer_cut_at_its_limit_has_reached_it() -> None:
    """Nobody is asked for a token more than was wanted."""
    second = Scripted("local:b")
    outcome = await run(router(Scripted("cloud:a", (3, dead())), second), ask(max_tokens=3))
    assert outcome.finished[0].reason == "length"
    assert second.asked == []


async def test_cut_is_told_where_nobody_else_can_be_asked() -> None:
    """And not that somebody has an open breaker."""
    failure = dead()
    first, second = Scripted("cloud:a", (2, failure)), Scripted("cloud:b")
    second.refusal = NoRoute("open", retry_after=7)
    outcome = await run(router(first, second), ask())
    assert outcome.error is failure
    assert outcome.attempts == [("cloud:a", "upstream_error"), ("cloud:b", "no_route")]


async def test_plain_text_goes_on_too() -> None:
    """The text so far is put behind the prompt."""
    first, second = Scripted("cloud:a", (3, dead())), Scripted("local:b")
    outcome = await run(router(first, second), ask(prompts=[TextPrompt("say: ")]))
    assert outcome.texts == {0: WORDS}


@pytest.mark.parametrize(
    ("wanted", "asked"), [("auto", "cloud:a"), ("local", "local:b"), ("cloud", "cloud:a")]
)
async def test_route_is_kept_to(wanted: Route, asked: str) -> None:
    """`local` never leaves the house, `cloud` never stays."""
    targets = [Scripted("cloud:a", dead(), dead()), Scripted("local:b", dead())]
    outcome = await run(router(*targets), ask(route=wanted))
    tried = [target for target, _ in outcome.attempts]
    assert tried[0] == asked
    if wanted != "auto":
        assert set(tried) == {asked}


async def test_no_substitutes() -> None:
    """An unknown name is not served, and a route without such a target has no way."""
    routed = router(Scripted("local:b"))
    with pytest.raises(ModelNotFound):
        routed.candidates(ask(model="n"))
    with pytest.raises(NoRoute):
        routed.candidates(ask(route="cloud"))


def test_offline_first() -> None:
    """The local targets come first, each group in the route's order."""
    targets = [Scripted(n) for n in ("cloud:a", "local:b", "cloud:c", "local:d")]
    found = router(*targets, offline_first=True).candidates(ask())
    assert [target.name for target in found] == ["local:b", "local:d", "cloud:a", "cloud:c"]


def test_who_is_sent_away_asks_the_cloud_first() -> None:
    """Whatever the route's order, and never against what the request or the route allows."""
    targets = [Scripted(n) for n in ("local:a", "cloud:b", "local:c", "cloud:d")]
    config = Config(routes={"m": [t.name for t in targets]}, routing=Routing(offline_first=True))
    by_name = {target.name: target for target in targets}
    routed = Router(config, by_name, goes_away=lambda priority: priority != "critical")

    def order(**fields: object) -> list[str]:
        return [target.name for target in routed.candidates(ask(**fields))]

    assert order() == ["cloud:b", "cloud:d", "local:a", "local:c"]
    assert order(priority="critical") == ["local:a", "local:c", "cloud:b", "cloud:d"]
    assert order(route="local") == ["local:a", "local:c"]
    place = routed.place("auto m", "batch")
    assert place is not None
    assert place.name == "cloud:b"


def test_fastest_of_equals() -> None:
    """By time to the first token; an unknown one is given its chance, an unavailable one waits."""
    slow, fast, new = (
        Scripted("cloud:slow", latency=2.0),
        Scripted("cloud:fast", latency=0.5),
        Scripted("cloud:new"),
    )
    routed = router(slow, fast, new, entry=[["cloud:slow", "cloud:fast", "cloud:new"]])
    assert routed.candidates(ask()) == [new, fast, slow]
    new.refusal = NoRoute("open", retry_after=1)
    assert routed.candidates(ask()) == [fast, slow, new]


async def test_leaving_closes_the_target() -> None:
    """Whoever stops reading stops the work."""
    target = Scripted("cloud:a")
    stream = router(target).stream(ask(), Trail(), time.monotonic())
    async for some in stream:
        if some:
            break
    assert target.open == 1
    await stream.aclose()
    assert target.open == 0


async def test_deadline_is_for_all_attempts() -> None:
    """Each target is given what is left."""
    first, second = Scripted("cloud:a", dead()), Scripted("local:b")
    await run(router(first, second), ask(deadline=5.0))
    assert first.asked[0].deadline is not None
    assert second.asked[0].deadline is not None
    assert second.asked[0].deadline <= first.asked[0].deadline <= 5.0


def calling(*pieces: CallPiece) -> list[Part]:
    return [Part(0, Delta("", [], "", calls=[piece])) for piece in pieces]


class Calling(Scripted):
    """Says a word if it is told so, begins to call a tool, and fails."""

    def __init__(self, name: str, failure: EdgeError, word: str = "") -> None:
        super().__init__(name)
        self.failure = failure
        self.word = word

    async def stream(self, request: Request, began: float) -> AsyncGenerator[list[Part], None]:
        self.asked.append(request)
        if self.word:
            yield [Part(0, Delta("", [], self.word))]
        yield calling(CallPiece(0, "c", "f"), CallPiece(0, arguments='{"a'))
        raise self.failure


OFFER = ChatPrompt([Message("user", "count")], Tools([Tool("f", "{}", "tools[0]")]))


@pytest.mark.parametrize("word", ["", "w0"])
async def test_cut_tool_call_is_never_continued(word: str) -> None:
    """Half of its arguments are out; who goes on could only guess at the rest."""
    failure = dead()
    first, second = Calling("cloud:a", failure, word), Scripted("local:b")
    outcome = await run(router(first, second), ask(prompts=[OFFER]))
    assert outcome.error is failure
    assert outcome.finished == {}
    assert second.asked == []


async def test_text_beside_tools_goes_on() -> None:
    """With the same tools, as long as none was called; and not once one of them is."""
    failure = dead()
    first, second = Scripted("cloud:a", (2, dead())), Calling("cloud:b", failure, " w2")
    third = Scripted("local:c")
    outcome = await run(router(first, second, third), ask(prompts=[OFFER]))
    assert outcome.texts == {0: "w0 w1 w2"}
    (prompt,) = second.asked[0].prompts
    assert prompt == ChatPrompt([*OFFER.messages, Message("assistant", "w0 w1")], OFFER.tools)
    assert outcome.error is failure
    assert third.asked == []
