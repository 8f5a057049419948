"""The engine stepped over the fake decoder: order, prefixes, cancelling, limits, stops."""

from __future__ import annotations

import pytest
from fake import FakeBackend, FakeModel, expected
from stepping import Stepper, generation

from edge.engine.scheduler import STRETCH
from edge.engine.slots import COPY_PAYS
from edge.errors import ContextLengthExceeded, InvalidRequest
from edge.types import Generation, Sampling, Started, TokenPrompt

SYSTEM = [1 + i % 90 for i in range(120)]
"""A prefix that is worth a copy."""


class Clock:
    """Stands in for `time` in the engine: moves only when the backend computes."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


class TimedBackend(FakeBackend):
    """Each computation takes 40 ms, 4 ms more for each output and 1.6 ms for each other token."""

    clock: Clock

    def decode(self, chunks: object) -> None:
        super().decode(chunks)  # type: ignore[arg-type]
        self.clock.now += self.cost(len(self.decoded) - 1)

    def cost(self, step: int) -> float:
        chunks = self.decoded[step]
        generating = sum(len(chunk.tokens) == 1 for chunk in chunks)
        prompt = sum(len(chunk.tokens) for chunk in chunks) - generating
        return 0.040 + 0.004 * generating + 0.0016 * prompt


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> TimedBackend:
    backend = TimedBackend(slots=4, context=2000, batch=256)
    backend.clock = Clock()
    monkeypatch.setattr("edge.engine.engine.time", backend.clock)
    return backend


def script(model: FakeModel, prompt: str, raw: bytes | list[bytes]) -> None:
    model.script(model.vocabulary.tokenize(prompt, special=False, bos=True), raw)


def prompt_of(tokens: list[int], name: str = "a", **fields: object) -> Generation:
    return generation(TokenPrompt(tokens), name, **fields)


def shares(backend: FakeBackend, step: int) -> dict[int, int]:
    """Tokens of each slot in a step."""
    return {chunk.slot: len(chunk.tokens) for chunk in backend.decoded[step]}


# One request


def test_answer_is_the_models() -> None:
    """One request alone gives the text that the model has for it."""
    stepper = Stepper(FakeBackend())
    for number in range(50):
        request = generation(f"question {number}", f"{number}", max_tokens=60)
        heard = stepper.answer(request)
        wanted = expected(stepper.backend.model, request, stepper.backend.context)
        assert (heard.text, heard.tokens, heard.reason) == (
            wanted.text,
            wanted.tokens,
            wanted.reason,
        )


def test_sampled_answer_is_the_models() -> None:
    """A sampler chain sees each chosen token once, in order."""
    stepper = Stepper(FakeBackend())
    for seed in range(50):
        request = generation("hello", f"{seed}", sampling=Sampling(seed=seed), max_tokens=40)
        heard = stepper.answer(request)
        wanted = expected(stepper.backend.model, request, stepper.backend.context)
        assert heard.tokens == wanted.tokens


def test_usage_counts_tokens() -> None:
    """Prompt and answer are counted in tokens, the end token included."""
    backend = FakeBackend()
    script(backend.model, "hey", b"four")
    heard = Stepper(backend).answer(generation("hey"))
    assert heard.usage is not None
    assert heard.usage.prompt_tokens == 1 + len("hey")
    assert heard.usage.completion_tokens == len("four") + 1
    assert heard.usage.cached_tokens == 0


def test_usage_tells_prompt_from_generation_time(timed: TimedBackend) -> None:
    """The first token ends the time of the prompt; both add up to all steps."""
    script(timed.model, "hey", b"four")
    heard = Stepper(timed, clock=timed.clock.monotonic).answer(generation("hey"))
    assert heard.usage is not None
    assert heard.usage.prompt_seconds == pytest.approx(timed.cost(0))
    assert heard.usage.generation_seconds == pytest.approx(4 * timed.cost(1))


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_tokens_ends_with_length(limit: int) -> None:
    """Exactly so many tokens come, and the reason says why it ended."""
    backend = FakeBackend()
    script(backend.model, "hey", b"a longer answer")
    heard = Stepper(backend).answer(generation("hey", max_tokens=limit))
    assert (heard.text, heard.reason) == ("a longer answer"[:limit], "length")


def test_end_at_the_limit_is_a_stop() -> None:
    """An end token that is also the last one allowed is an end."""
    backend = FakeBackend()
    script(backend.model, "hey", b"four")
    heard = Stepper(backend).answer(generation("hey", max_tokens=5))
    assert (heard.text, heard.reason) == ("four", "stop")


@pytest.mark.parametrize("max_tokens", [None, 1000])
def test_full_context_ends_with_length(max_tokens: int | None) -> None:
    """Prompt and answer fill the context to the last token, and never more."""
    backend = FakeBackend(context=32)
    script(backend.model, "hey", b"x" * 100)
    heard = Stepper(backend).answer(generation("hey", max_tokens=max_tokens))
    assert (len(heard.tokens), heard.reason) == (32 - 4, "length")


def test_prompt_that_leaves_one_token_of_room() -> None:
    """The longest prompt that is allowed gets its one token."""
    heard = Stepper(FakeBackend(context=40)).answer(prompt_of([7] * 39))
    assert len(heard.tokens) == 1


def test_prompt_without_room_is_refused() -> None:
    """A prompt as long as the context is refused before it computes anything."""
    stepper = Stepper(FakeBackend(context=40))
    with pytest.raises(ContextLengthExceeded):
        stepper.submit(prompt_of([7] * 40))
    assert stepper.engine.idle


@pytest.mark.parametrize("tokens", [[], [-1], [10**6]])
def test_impossible_prompt_tokens_are_refused(tokens: list[int]) -> None:
    """Token ids that the model does not have never reach it."""
    with pytest.raises(InvalidRequest):
        Stepper(FakeBackend()).submit(prompt_of(tokens))


def test_bias_on_an_unknown_token_is_refused() -> None:
    """A logit bias names tokens of this model only."""
    with pytest.raises(InvalidRequest, match="logit_bias"):
        Stepper(FakeBackend()).submit(generation("hey", sampling=Sampling(logit_bias={10**6: 1.0})))


def test_text_too_long_for_any_tokenization_is_refused_by_length() -> None:
    """No time goes into tokenizing what cannot fit."""
    stepper = Stepper(FakeBackend(context=16))
    stepper.backend.vocabulary.tokenize = None  # type: ignore[assignment, method-assign]
    with pytest.raises(ContextLengthExceeded, match="characters"):
        stepper.submit(generation("x" * 16 * 65))


def test_control_tokens_in_a_text_prompt_stay_text() -> None:
    """A raw prompt cannot spell a control token."""
    stepper = Stepper(FakeBackend())
    stepper.submit(generation("<|im_end|>", max_tokens=1))
    stepper.run()
    assert stepper.backend.vocabulary.eos not in stepper.backend.decoded[0][0].tokens


def test_ignored_end_goes_on() -> None:
    """With `ignore_eos` the end token is a token like others, without text."""
    backend = FakeBackend()
    script(backend.model, "hey", b"four")
    heard = Stepper(backend).answer(generation("hey", ignore_eos=True, max_tokens=9))
    assert (heard.text, heard.reason, len(heard.tokens)) == ("four", "length", 9)


# Steps


@pytest.mark.parametrize("length", [63, 64, 65, 128, 129])
def test_chunk_that_ends_at_the_batch_border(length: int) -> None:
    """Prompts of about a multiple of the batch are computed once and give one first token."""
    backend = FakeBackend(batch=64)
    request = prompt_of([1 + i % 200 for i in range(length)], max_tokens=3, ignore_eos=True)
    heard = Stepper(backend).answer(request)
    assert heard.tokens == expected(backend.model, request, backend.context).tokens
    assert backend.computed == length + 2
    assert len(backend.decoded) == -(-length // 64) + 2


def test_each_step_feeds_all_that_generate() -> None:
    """A long prompt beside running streams never costs one of them its token."""
    stepper = Stepper(FakeBackend(slots=4, context=900, batch=32))
    for name in "abc":
        stepper.submit(prompt_of([ord(name)] * 4, name, max_tokens=60, ignore_eos=True))
    stepper.step()
    stepper.submit(prompt_of([9, *range(1, 250), *range(1, 250)], "long", max_tokens=1))
    while stepper.heard["long"].reason is None:
        before = {name: len(stepper.heard[name].tokens) for name in "abc"}
        stepper.step()
        for name in "abc":
            if before[name] < 60:
                assert len(stepper.heard[name].tokens) == before[name] + 1


def test_long_prompt_keeps_to_its_budget_beside_streams(timed: TimedBackend) -> None:
    """Once a plain step is known, one with a prompt chunk takes at most `STRETCH` times as long."""
    stepper = Stepper(timed, clock=timed.clock.monotonic)
    for name in "abc":
        stepper.submit(prompt_of([ord(name)] * 4, name, max_tokens=500, ignore_eos=True))
    for _ in range(3):
        stepper.step()
    plain = timed.cost(2)
    stepper.submit(prompt_of([1 + i % 200 for i in range(1500)], "long", max_tokens=1))
    costs = []
    while stepper.heard["long"].reason is None:
        before = timed.clock.now
        stepper.step()
        costs.append(timed.clock.now - before)
    assert max(costs) <= STRETCH * plain * 1.01
    prompt_seconds = sum(cost - plain for cost in costs)
    allowed = (1 - 1 / STRETCH) * sum(costs)
    assert prompt_seconds > 0.9 * allowed, "the prompt gets what the streams are not promised"


def test_prompt_beside_nothing_takes_the_whole_batch() -> None:
    """Without streams to disturb, a prompt is computed in as few steps as there can be."""
    backend = FakeBackend(context=500, batch=100)
    Stepper(backend).answer(prompt_of([3] * 400, max_tokens=1))
    assert len(backend.decoded) == 4


def test_oldest_prompt_first() -> None:
    """Prompts are computed in order of arrival, the next one in what the first leaves."""
    stepper = Stepper(FakeBackend(slots=3, context=200, batch=100))
    for name in "abc":
        stepper.submit(prompt_of([ord(name)] * 80, name, max_tokens=1))
    stepper.step()
    assert shares(stepper.backend, 0) == {0: 80, 1: 20}
    stepper.step()
    assert shares(stepper.backend, 1) == {1: 60, 2: 40}


def test_batch_no_larger_than_the_slots() -> None:
    """With a batch of one token for each slot, streams and a prompt still all move."""
    stepper = Stepper(FakeBackend(slots=4, batch=4, context=100))
    for name in "abc":
        stepper.submit(prompt_of([ord(name)], name, max_tokens=90, ignore_eos=True))
    stepper.step()
    stepper.submit(prompt_of([5] * 20, "d", max_tokens=2, ignore_eos=True))
    for _ in range(30):
        stepper.step()
    assert stepper.heard["d"].reason == "length"


def test_step_without_work_does_nothing() -> None:
    """An idle engine has nothing to compute and nothing to tell."""
    stepper = Stepper(FakeBackend())
    assert stepper.step() == []
    assert stepper.backend.decoded == []
    assert stepper.engine.idle


# Waiting


def test_more_requests_than_slots_wait_their_turn() -> None:
    """First come, first served, as slots come free."""
    stepper = Stepper(FakeBackend(slots=2))
    for name in "abcde":
        stepper.submit(prompt_of([ord(name)], name, max_tokens=3, ignore_eos=True))
    started: list[str] = []
    while not stepper.engine.idle:
        started += [event.id for event in stepper.step() if isinstance(event, Started)]
    assert started == list("abcde")


def test_priorities_order_the_queue() -> None:
    """Critical before normal before batch, and in order of arrival within each."""
    stepper = Stepper(FakeBackend(slots=1))
    stepper.submit(prompt_of([1], "running", max_tokens=2, ignore_eos=True))
    stepper.step()
    for name, priority in [
        ("b1", "batch"),
        ("n1", "normal"),
        ("c1", "critical"),
        ("b2", "batch"),
        ("n2", "normal"),
        ("c2", "critical"),
    ]:
        stepper.submit(prompt_of([1], name, priority=priority, max_tokens=1))
    started: list[str] = []
    while not stepper.engine.idle:
        started += [event.id for event in stepper.step() if isinstance(event, Started)]
    assert started == ["c1", "c2", "n1", "n2", "b1", "b2"]


# Prefixes


def test_resident_prefix_is_not_computed_again() -> None:
    """The next turn of a chat computes only what is new."""
    stepper = Stepper(FakeBackend())
    first = prompt_of([*SYSTEM, 200], "a", max_tokens=5, ignore_eos=True)
    heard = stepper.answer(first)
    before = stepper.backend.computed
    second = prompt_of([*SYSTEM, 200, *heard.tokens, 201, 202], "b", max_tokens=1)
    again = stepper.answer(second)
    # The last token of the first answer was chosen and never computed.
    assert again.cached == len(SYSTEM) + 1 + 4
    assert stepper.backend.computed - before == 1 + 2
    assert again.tokens == expected(stepper.backend.model, second, 256).tokens


def test_same_prompt_again_computes_one_token() -> None:
    """At least the last token of a prompt is computed: its logits are needed."""
    stepper = Stepper(FakeBackend())
    first = stepper.answer(prompt_of(SYSTEM, "a", max_tokens=9))
    before = stepper.backend.computed
    second = stepper.answer(prompt_of(SYSTEM, "b", max_tokens=9))
    assert second.tokens == first.tokens
    assert second.cached == len(SYSTEM) - 1
    assert stepper.backend.computed - before == len(second.tokens)


def test_prefix_of_a_running_stream_is_copied() -> None:
    """A second client with the same system prompt gets it from the first one's slot."""
    stepper = Stepper(FakeBackend())
    stepper.submit(prompt_of([*SYSTEM, 201], "a", max_tokens=50, ignore_eos=True))
    stepper.step()
    stepper.step()
    stepper.step()
    request = prompt_of([*SYSTEM, 202], "b", max_tokens=5, ignore_eos=True)
    heard = stepper.submit(request)
    stepper.run()
    assert stepper.backend.copies == [(0, 1, len(SYSTEM))]
    assert heard.cached == len(SYSTEM)
    assert heard.tokens == expected(stepper.backend.model, request, 256).tokens


def test_resident_with_a_long_tail_is_copied_while_slots_are_free() -> None:
    """A conversation is not cut down for a newcomer who shares its system prompt only."""
    stepper = Stepper(FakeBackend(slots=2, context=600))
    chat = [*SYSTEM, *(150 + i % 50 for i in range(300))]
    stepper.answer(prompt_of(chat, "a", max_tokens=1))
    stepper.answer(prompt_of([*SYSTEM, 240], "b", max_tokens=1))
    assert stepper.backend.copies == [(0, 1, len(SYSTEM))]
    assert stepper.answer(prompt_of([*chat, 241], "c", max_tokens=1)).cached == len(chat)


def test_short_prefix_is_not_copied() -> None:
    """Below `COPY_PAYS` tokens computing again is cheaper."""
    stepper = Stepper(FakeBackend())
    shared = SYSTEM[: COPY_PAYS - 1]
    stepper.submit(prompt_of([*shared, 201], "a", max_tokens=50, ignore_eos=True))
    stepper.step()
    heard = stepper.submit(prompt_of([*shared, 202], "b", max_tokens=1))
    stepper.run()
    assert (heard.cached, stepper.backend.copies) == (0, [])


def test_same_prefix_waits_for_the_one_that_computes_it() -> None:
    """Eight clients with one new system prompt compute it once."""
    stepper = Stepper(FakeBackend(slots=8, batch=32))
    for number in range(8):
        stepper.submit(prompt_of([*SYSTEM, 200 + number], f"{number}", max_tokens=1))
    stepper.run()
    assert stepper.backend.computed == len(SYSTEM) + 8
    assert [stepper.heard[f"{n}"].cached for n in range(8)] == [0] + [len(SYSTEM)] * 7


def test_others_overtake_one_that_waits_for_a_prefix() -> None:
    """A request with another prompt takes the free slot meanwhile."""
    stepper = Stepper(FakeBackend(slots=3, batch=32))
    stepper.submit(prompt_of([*SYSTEM, 201], "first", max_tokens=1))
    stepper.submit(prompt_of([*SYSTEM, 202], "waits", max_tokens=1))
    stepper.submit(prompt_of([7, 8, 9], "other", max_tokens=1))
    stepper.step()
    assert set(stepper.engine.running) == {"first", "other"}
    stepper.run()
    assert stepper.heard["waits"].cached == len(SYSTEM)


def test_nobody_waits_for_what_a_stream_will_say() -> None:
    """Only prompts are waited for: a stream that happens to say the same goes on for long."""
    stepper = Stepper(FakeBackend(slots=2))
    stepper.backend.model.script(SYSTEM, b"x" * 100)
    stepper.submit(prompt_of(SYSTEM, "says"))
    stepper.step()
    stepper.step()
    heard = stepper.submit(prompt_of([*SYSTEM, *b"x" * 100, 1], "asks", max_tokens=1))
    stepper.step()
    assert heard.cached == len(SYSTEM)


def test_last_token_of_a_prompt_is_no_stream() -> None:
    """A prompt whose prefix was cached but for one token is still a prompt to the scheduler."""
    stepper = Stepper(FakeBackend())
    stepper.answer(prompt_of(SYSTEM, "a", max_tokens=1))
    stepper.submit(prompt_of(SYSTEM, "b", max_tokens=2, ignore_eos=True))
    stepper.engine.admit()
    sequence = stepper.engine.running["b"]
    assert (sequence.pending, sequence.decoding) == (1, False)
    stepper.engine.step()
    assert (sequence.pending, sequence.decoding) == (1, True)


def test_waiting_for_a_prefix_ends_when_its_owner_is_cancelled() -> None:
    """The half that was computed is taken over, the rest is computed by the one who waited."""
    stepper = Stepper(FakeBackend(slots=2, batch=32))
    stepper.submit(prompt_of([*SYSTEM, 201], "first", max_tokens=1))
    request = prompt_of([*SYSTEM, 202], "waits", max_tokens=9)
    heard = stepper.submit(request)
    stepper.step()
    assert heard.cached is None
    stepper.cancel("first")
    stepper.step()
    assert heard.cached == 32
    stepper.run()
    assert heard.tokens == expected(stepper.backend.model, request, 256).tokens


def test_waiting_for_a_prefix_ends_when_its_owner_finished() -> None:
    """An owner who is done with its first token leaves its prefix behind."""
    stepper = Stepper(FakeBackend(slots=2, batch=200))
    stepper.submit(prompt_of([*SYSTEM, 201], "first", max_tokens=1))
    heard = stepper.submit(prompt_of([*SYSTEM, 202], "waits", max_tokens=1))
    stepper.step()
    assert (stepper.heard["first"].reason, heard.cached) == ("length", None)
    stepper.run()
    assert heard.cached == len(SYSTEM)


@pytest.mark.parametrize("tail", [[202], [], [201, 201]])
def test_waiting_ends_with_the_common_part(tail: list[int]) -> None:
    """It waits for what both have, not for the end of the other's longer prompt."""
    stepper = Stepper(FakeBackend(slots=2, context=900, batch=64))
    stepper.submit(prompt_of([*SYSTEM, *[201] * 700], "first", max_tokens=1))
    prompt = [*SYSTEM, *tail]
    heard = stepper.submit(prompt_of(prompt, "waits", max_tokens=1))
    stepper.step()
    assert heard.cached is None
    stepper.step()
    stepper.step()
    assert heard.cached == (len(SYSTEM) if tail == [202] else len(prompt) - 1)
    assert stepper.heard["first"].reason is None


def test_short_rest_of_a_prefix_is_not_waited_for() -> None:
    """Who has most of it in a slot already computes the rest: a copy would cost more."""
    stepper = Stepper(FakeBackend(slots=2, context=900, batch=16))
    stepper.answer(prompt_of([*SYSTEM, 201], "a", max_tokens=1))
    longer = [*SYSTEM, *[202] * 60]
    stepper.submit(prompt_of([*longer, 203], "b", max_tokens=1))
    stepper.step()
    heard = stepper.submit(prompt_of([*longer, 204], "c", max_tokens=1))
    stepper.run()
    assert (
        heard.tokens
        == expected(stepper.backend.model, prompt_of([*longer, 204], max_tokens=1), 900).tokens
    )


def test_one_copy_in_a_step() -> None:
    """Running streams wait for a copy, so there is at most one between two of their tokens."""
    stepper = Stepper(FakeBackend(slots=6))
    stepper.submit(prompt_of([*SYSTEM, 200], "first", max_tokens=60, ignore_eos=True))
    stepper.step()
    stepper.step()
    stepper.step()
    for number in range(4):
        request = prompt_of([*SYSTEM, 201 + number], f"{number}", max_tokens=9, ignore_eos=True)
        stepper.submit(request)
    for copies in range(1, 5):
        stepper.step()
        assert len(stepper.backend.copies) == copies


def test_no_slot_holds_more_than_its_own_client_said() -> None:
    """Two clients with one long prefix and secrets behind it: neither slot has the other's."""
    stepper = Stepper(FakeBackend(slots=3))
    for name, secret in [("a", 201), ("b", 202), ("c", 203)]:
        prompt = [*SYSTEM, *[secret] * 20]
        stepper.submit(prompt_of(prompt, name, max_tokens=30, ignore_eos=True))
        for _ in range(4):
            stepper.step()
    for held in stepper.backend.held:
        assert len({201, 202, 203} & set(held)) == 1


# A model that cannot forget a tail


def test_model_that_cannot_truncate_goes_on_with_a_whole_slot() -> None:
    """A recurrent state serves the prompt that continues exactly what it has seen."""
    stepper = Stepper(FakeBackend(slots=1, can_truncate=False))
    first = stepper.answer(prompt_of(SYSTEM, "a", max_tokens=5, ignore_eos=True))
    request = prompt_of([*SYSTEM, *first.tokens, 201], "b", max_tokens=5, ignore_eos=True)
    heard = stepper.answer(request)
    assert heard.cached == len(SYSTEM) + 4
    assert heard.tokens == expected(stepper.backend.model, request, 256).tokens


def test_model_that_cannot_truncate_starts_anew_for_a_part() -> None:
    """Half of a recurrent state is of no use: nothing is cached, copied or waited for."""
    stepper = Stepper(FakeBackend(slots=2, can_truncate=False))
    for name in "abcd":
        request = prompt_of([*SYSTEM, ord(name)], name, max_tokens=5)
        stepper.submit(request)
    stepper.step()
    assert set(stepper.engine.running) == {"a", "b"}
    stepper.run()
    assert all(heard.cached == 0 for heard in stepper.heard.values())
    assert stepper.backend.copies == []


# Cancelling


def test_cancel_frees_the_slot_before_the_next_step() -> None:
    """The next one starts in the same turn, and nothing more is computed for the cancelled."""
    stepper = Stepper(FakeBackend(slots=1))
    stepper.submit(prompt_of([1, 2, 3], "a", ignore_eos=True))
    heard = stepper.submit(prompt_of([4, 5, 6], "b", max_tokens=4, ignore_eos=True))
    stepper.step()
    stepper.cancel("a")
    assert stepper.engine.stats().running == 0
    events = stepper.step()
    assert {event.id for event in events} == {"b"}
    stepper.run()
    assert len(heard.tokens) == 4


def test_cancel_of_a_half_computed_prompt_leaves_its_part() -> None:
    """What was computed of it is a prefix for others."""
    stepper = Stepper(FakeBackend(slots=1, batch=64))
    stepper.submit(prompt_of(SYSTEM, "a"))
    stepper.step()
    stepper.cancel("a")
    assert stepper.answer(prompt_of(SYSTEM, "b", max_tokens=1)).cached == 64


def test_cancel_of_a_waiting_one_and_of_nobody() -> None:
    """Those who wait leave the queue; unknown ids are no error."""
    stepper = Stepper(FakeBackend(slots=1))
    stepper.submit(prompt_of([1], "a", max_tokens=3))
    stepper.submit(prompt_of([2], "b", max_tokens=3))
    stepper.cancel("b")
    stepper.engine.cancel("nobody")
    stepper.run()
    assert stepper.heard["a"].reason is not None
    assert stepper.engine.stats().waiting == 0


# Stop strings


@pytest.mark.parametrize("cut", range(1, 4))
def test_stop_across_token_borders(cut: int) -> None:
    """However the tokens cut a stop string, nothing of it is sent."""
    backend = FakeBackend()
    stop = "abc"
    script(backend.model, "hey", b"He llo abc more")
    heard = Stepper(backend).answer(generation("hey", stop=[stop[:cut]]))
    assert (heard.text, heard.reason) == ("He llo ", "stop")
    assert all("a" not in delta.text for delta in heard.deltas)


def test_stop_in_the_middle_of_a_token() -> None:
    """The part of a token before the stop string is text."""
    backend = FakeBackend()
    script(backend.model, "hey", [b"x", b"abc", b"y"])
    heard = Stepper(backend).answer(generation("hey", stop=["b"]))
    assert (heard.text, heard.reason, len(heard.tokens)) == ("xa", "stop", 2)


def test_first_of_several_stops_counts() -> None:
    """The one that stands first in the text cuts, not the one named first."""
    backend = FakeBackend()
    script(backend.model, "hey", [b"o", b"abc", b"a"])
    heard = Stepper(backend).answer(generation("hey", stop=["c", "b", "zzz"]))
    assert heard.text == "oa"


def test_stop_of_multi_byte_characters() -> None:
    """A stop string is found though its characters arrive in pieces."""
    backend = FakeBackend()
    script(
        backend.model,
        "hey",
        [b"a", b"\xf0\x9f", b"\x98\x80", *[bytes([b]) for b in "é日".encode()]],
    )
    heard = Stepper(backend).answer(generation("hey", stop=["😀é"]))
    assert (heard.text, heard.reason) == ("a", "stop")


def test_held_text_comes_when_it_was_no_stop() -> None:
    """A beginning of a stop string at the end of the answer is text after all."""
    backend = FakeBackend()
    script(backend.model, "hey", b"the end STO")
    heard = Stepper(backend).answer(generation("hey", stop=["STOP"]))
    assert (heard.text, heard.reason) == ("the end STO", "stop")


def test_held_text_comes_at_the_token_limit() -> None:
    """Nothing that was generated is lost when the limit cuts."""
    backend = FakeBackend()
    script(backend.model, "hey", b"the end STOP")
    heard = Stepper(backend).answer(generation("hey", stop=["STOP"], max_tokens=11))
    assert (heard.text, heard.reason) == ("the end STO", "length")


def test_characters_are_never_sent_in_halves() -> None:
    """Bytes of one character in several tokens come out as one character, once."""
    backend = FakeBackend()
    script(backend.model, "hey", "é日😀".encode())
    heard = Stepper(backend).answer(generation("hey"))
    texts = [delta.text for delta in heard.deltas]
    assert texts == ["", "é", "", "", "日", "", "", "", "😀", ""]


def test_half_a_character_at_the_end_is_marked() -> None:
    """A limit in the middle of a character gives the replacement character."""
    backend = FakeBackend()
    script(backend.model, "hey", "a😀".encode())
    heard = Stepper(backend).answer(generation("hey", max_tokens=3))
    assert heard.text == "a\ufffd"


# Log probabilities


def logprob_texts(heard: object) -> list[list[bytes]]:
    return [[entry.chosen.raw for entry in delta.logprobs] for delta in heard.deltas]  # type: ignore[attr-defined]


def test_one_log_probability_for_each_token() -> None:
    """Each token of the text has its entry, in order, with as many alternatives as asked for."""
    backend = FakeBackend()
    request = generation("tell", logprobs=2, max_tokens=30, ignore_eos=True)
    heard = Stepper(backend).answer(request)
    assert [entry.chosen.token for entry in heard.logprobs] == heard.tokens
    for entry in heard.logprobs:
        assert entry.top[0].token == entry.chosen.token
        assert [a.logprob for a in entry.top] == sorted(
            (a.logprob for a in entry.top), reverse=True
        )
        assert len(entry.top) == 2


def test_log_probabilities_come_with_their_text() -> None:
    """While a text is held back because it may become a stop string, so are its entries."""
    backend = FakeBackend()
    script(backend.model, "hey", b"xSTy")
    heard = Stepper(backend).answer(generation("hey", stop=["STOP"], logprobs=0))
    assert logprob_texts(heard) == [[b"x"], [], [], [b"S", b"T", b"y"], []]


def test_no_log_probabilities_of_what_a_stop_string_ate() -> None:
    """They would tell what the text does not."""
    backend = FakeBackend()
    script(backend.model, "hey", b"xSTOP")
    heard = Stepper(backend).answer(generation("hey", stop=["STOP"], logprobs=0))
    assert [entry.chosen.raw for entry in heard.logprobs] == [b"x"]


def test_log_probabilities_of_half_a_character_wait_for_it() -> None:
    """The first bytes of a character have no text yet, and a stop string may still eat it."""
    backend = FakeBackend()
    script(backend.model, "hey", [b"x", b"\xf0\x9f", b"\x98\x80", b"y"])
    heard = Stepper(backend).answer(generation("hey", logprobs=0))
    assert logprob_texts(heard) == [[b"x"], [], [b"\xf0\x9f", b"\x98\x80"], [b"y"], []]
    stopped = Stepper(backend).answer(generation("hey", stop=["😀"], logprobs=0))
    assert [entry.chosen.raw for entry in stopped.logprobs] == [b"x"]


def test_log_probabilities_of_a_held_end_come_at_the_end() -> None:
    """What turns out to be text at the end brings its entries."""
    backend = FakeBackend()
    script(backend.model, "hey", b"xST")
    heard = Stepper(backend).answer(generation("hey", stop=["STOP"], logprobs=0))
    assert [entry.chosen.raw for entry in heard.logprobs] == [b"x", b"S", b"T"]


def test_token_without_text_has_its_log_probability() -> None:
    """A control token in the middle, with `ignore_eos`, is reported like others."""
    backend = FakeBackend()
    script(backend.model, "hey", b"ab")
    heard = Stepper(backend).answer(generation("hey", ignore_eos=True, max_tokens=4, logprobs=0))
    assert [entry.chosen.raw for entry in heard.logprobs] == [b"a", b"b", b"", b""]


# Parking


def test_critical_takes_the_slot_of_a_batch_sequence() -> None:
    """At once, from the one that began last; that one goes on as if nothing had been."""
    stepper = Stepper(FakeBackend(slots=2, context=400, batch=64))
    reports = [
        prompt_of([1 + n, 2, 3], f"report{n}", max_tokens=30, priority="batch", ignore_eos=True)
        for n in range(2)
    ]
    for report in reports:
        stepper.submit(report)
    for _ in range(5):
        stepper.step()
    stepper.submit(prompt_of([7, 8, 9], "alarm", max_tokens=3, priority="critical"))
    stepper.step()
    assert set(stepper.engine.running) == {"report0", "alarm"}
    assert stepper.engine.stats().waiting == 1
    stepper.run()
    for report in reports:
        wanted = expected(stepper.backend.model, report, 400)
        heard = stepper.heard[report.id]
        assert (heard.text, heard.tokens) == (wanted.text, wanted.tokens)
        assert heard.usage is not None
        assert heard.usage.prompt_tokens == 3


def test_parked_sequence_comes_before_those_that_have_not_begun() -> None:
    """And what its slot held is used again where nobody has taken the room."""
    stepper = Stepper(FakeBackend(slots=2, context=400, batch=64))
    for name in ("a", "b", "late"):
        stepper.submit(
            prompt_of([*map(ord, name), 5], name, max_tokens=9, priority="batch", ignore_eos=True)
        )
    stepper.step()
    stepper.submit(prompt_of([7, 8], "alarm", max_tokens=1, priority="critical", ignore_eos=True))
    stepper.step()
    assert [sequence.id for sequence in stepper.engine.waiting.order(0)] == ["b", "late"]
    while stepper.heard["alarm"].reason is None:
        stepper.step()
    stepper.step()
    assert "b" in stepper.engine.running


def test_nobody_but_batch_work_is_parked() -> None:
    """A normal request keeps its slot; the critical one is the next to have one."""
    stepper = Stepper(FakeBackend(slots=1, context=400, batch=64))
    stepper.submit(prompt_of([1, 2], "chat", max_tokens=5, ignore_eos=True))
    stepper.submit(prompt_of([3, 4], "report", max_tokens=5, priority="batch"))
    stepper.step()
    stepper.submit(prompt_of([7, 8], "alarm", max_tokens=5, priority="critical"))
    stepper.step()
    assert set(stepper.engine.running) == {"chat"}
    assert [sequence.id for sequence in stepper.engine.waiting.order(0)] == ["alarm", "report"]
    stepper.run()


def test_cancel_of_a_parked_sequence_leaves_nothing() -> None:
    """Neither in the line nor in a slot."""
    stepper = Stepper(FakeBackend(slots=1, context=400, batch=64))
    sampling = Sampling(temperature=1, seed=1)
    report = generation(
        TokenPrompt([1, 2]), "report", max_tokens=50, priority="batch", sampling=sampling
    )
    stepper.submit(report)
    stepper.step()
    stepper.submit(prompt_of([7, 8], "alarm", max_tokens=2, priority="critical", ignore_eos=True))
    stepper.step()
    stepper.cancel("report")
    assert set(stepper.engine.running) == {"alarm"}
    assert stepper.engine.stats().waiting == 0
    stepper.run()
