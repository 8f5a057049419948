"""A second model that drafts: no text depends on it, and it is left alone where it does not pay."""

from __future__ import annotations

import random

import pytest
from fake import FakeBackend, FakeModel, FakeVocabulary, expected
from second_model import Careless, Doubter, Imitator, SecondBackend, second
from stepping import GREEDY, Stepper, generation, varied
from timed import COPIED, FREE, HALF, Machine, TimedEngine, copying

from edge.engine.draft_cost import LONGEST
from edge.engine.draft_model import DraftModel
from edge.engine.model_drafts import READY, TRIAL_SHARE
from edge.engine.sequence import Sequence
from edge.engine.slots import COPY_PAYS
from edge.types import Generation, Grammar, Sampling, TokenPrompt

SMALL = lambda tokens: 0.002 + 1e-5 * tokens  # noqa: E731
"""Seconds of a step of a model that is a tenth of the other one."""

LARGE = lambda tokens: 0.02 + 0.002 * tokens  # noqa: E731
"""The same for one as large as the other."""


def texts(count: int = 1, **fields: object) -> list[Generation]:
    fields.setdefault("max_tokens", 200)
    return [generation(f"Text {n}", f"{n}", ignore_eos=True, **fields) for n in range(count)]


def accepted(stepper: Stepper) -> int:
    return sum(heard.usage.accepted_tokens for heard in stepper.heard.values() if heard.usage)


def drafted(stepper: Stepper) -> int:
    return sum(heard.usage.drafted_tokens for heard in stepper.heard.values() if heard.usage)


def assert_as_expected(stepper: Stepper, requests: list[Generation]) -> None:
    for request in requests:
        wanted = expected(stepper.backend.model, request, stepper.backend.context)
        heard = stepper.heard[request.id]
        assert (heard.tokens, heard.text, heard.reason) == (
            wanted.tokens,
            wanted.text,
            wanted.reason,
        )


class Pair:
    """A model, one that drafts for it, and what both take."""

    def __init__(
        self,
        right: int,
        seconds: object = SMALL,
        machine: Machine = FREE,
        slots: int = 1,
        context: int = 512,
    ) -> None:
        self.model = FakeModel()
        self.imitator = Imitator(self.model, right)
        self.backend = SecondBackend(
            self.imitator,
            seconds,  # type: ignore[arg-type]
            slots=slots,
            context=context,
        )
        self.second = second(self.backend)
        self.machine = machine
        first = FakeBackend(model=self.model, slots=slots, context=context)
        first.outputs = first.batch
        self.stepper = TimedEngine(first, machine, self.second)

    def answer(self, requests: list[Generation]) -> None:
        for request in requests:
            self.stepper.submit(request)
        self.stepper.run()
        assert_as_expected(self.stepper, requests)

    @property
    def share(self) -> float:
        """Of the second model in the time that all steps would take without it."""
        return self.second.seconds / (self.stepper.engine.steps * self.machine(1, 0))


# The same texts


@pytest.mark.parametrize("right", [0, 50, 100])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5)])
@pytest.mark.parametrize("seed", range(6))
def test_text_does_not_depend_on_the_second_model(
    seed: int, sampling: Sampling, right: int
) -> None:
    """It is right, wrong or both; stop strings, limits and log probabilities are as without."""
    request = varied(seed, sampling)
    plain = Stepper(FakeBackend()).answer(request)
    first = FakeBackend()
    backend = SecondBackend(Imitator(first.model, right))
    drafter = Careless(second(backend), backend, random.Random(seed))
    heard = Stepper(first, drafter=drafter).answer(request)
    assert (heard.tokens, heard.text, heard.reason) == (plain.tokens, plain.text, plain.reason)
    assert heard.logprobs == plain.logprobs
    assert heard.usage is not None
    if sampling == GREEDY:
        assert (heard.usage.accepted_tokens > 0) == (right > 0)


@pytest.mark.parametrize("seed", range(6))
def test_grammar_goes_with_a_second_model(seed: int) -> None:
    """It knows nothing of the grammar, and several tokens may be fixed at once."""
    request = generation(
        f"Text {seed}",
        max_tokens=80,
        grammar=Grammar("regex", r'\{"name":"[abc]{4,9}","state":"(ab|bc)[abc. ]{3,20}"\}'),
    )
    plain = Stepper(FakeBackend()).answer(request)
    first = FakeBackend()
    backend = SecondBackend(Imitator(first.model, 80))
    drafter = Careless(second(backend), backend, random.Random(seed))
    heard = Stepper(first, drafter=drafter).answer(request)
    assert (heard.tokens, heard.text, heard.reason) == (plain.tokens, plain.text, plain.reason)


# Where it pays


def test_good_small_model_makes_fewer_steps() -> None:
    """Several tokens come with a step."""
    pair = Pair(right=95)
    pair.answer(texts())
    assert pair.stepper.engine.steps < 200 / 3
    assert accepted(pair.stepper) > 0.8 * drafted(pair.stepper)


def test_many_sequences_are_drafted_for_together() -> None:
    """Each step of the second model has a token of most of them."""
    pair = Pair(right=95, slots=6)
    pair.answer(texts(6))
    assert pair.stepper.engine.steps < 200 / 2
    together = [chunks for chunks in pair.backend.decoded if len(chunks) > 3]
    assert len(together) > len(pair.backend.decoded) / 2


@pytest.mark.parametrize(
    ("right", "seconds"), [(0, SMALL), (40, LARGE), (100, LARGE)], ids=["wrong", "poor", "large"]
)
def test_model_that_does_not_pay_is_left_alone(right: int, seconds: object) -> None:
    """It is tried for as little of the time as was set aside for that, in the long run."""
    pair = Pair(right, seconds, HALF)
    pair.answer(texts())
    begin, steps = pair.second.seconds, pair.stepper.engine.steps
    for number in range(20):
        pair.answer([generation(f"Later {number}", f"l{number}", max_tokens=200, ignore_eos=True)])
    spent = pair.second.seconds - begin
    assert spent <= 1.5 * TRIAL_SHARE * (pair.stepper.engine.steps - steps) * HALF(1, 0)
    assert pair.share < 0.05


def test_model_that_is_never_sure_is_left_alone() -> None:
    """Nothing that it says can be judged, as it says nothing."""
    model, backend = FakeModel(), FakeBackend(slots=1, context=512)
    doubter = Doubter(model, SMALL, slots=1, context=512)
    follower = second(doubter)
    stepper = TimedEngine(backend, HALF, follower)
    for number in range(20):
        stepper.answer(generation(f"Text {number}", max_tokens=200, ignore_eos=True))
    assert drafted(stepper) == 0
    assert follower.seconds < 0.05 * stepper.engine.steps * HALF(1, 0)


def test_model_that_gets_better_is_used_again() -> None:
    """As when the texts change, or the machine was busy: trials find out."""
    pair = Pair(right=0)
    pair.answer(texts())
    before = pair.stepper.engine.steps
    assert before > 190
    pair.imitator.right = 100
    for number in range(40):
        pair.answer([generation(f"Later {number}", f"l{number}", max_tokens=200, ignore_eos=True)])
    last = pair.stepper.engine.steps
    pair.answer([generation("Last", "last", max_tokens=200, ignore_eos=True)])
    assert pair.stepper.engine.steps - last < 200 / 3


def test_short_answers_to_long_prompts_are_not_followed() -> None:
    """Reading the prompt would take longer than drafts can save."""
    pair = Pair(right=100, seconds=lambda tokens: 0.002 * (1 + tokens))
    pair.answer(texts())
    before = pair.second.seconds
    for number in range(8):
        prompt = [random.Random(number).randrange(1, 250) for _ in range(400)]
        pair.answer([generation(TokenPrompt(prompt), f"l{number}", max_tokens=5, ignore_eos=True)])
    assert pair.second.seconds - before < 0.2 * 8 * 400 * 0.002


def test_long_prompt_is_read_in_pieces() -> None:
    """Who runs beside it does not wait for all of it."""
    pair = Pair(right=100, slots=2, seconds=lambda tokens: 0.002 + 2e-4 * tokens, context=2048)
    prompt = [random.Random(1).randrange(1, 250) for _ in range(1500)]
    pair.answer(
        [*texts(), generation(TokenPrompt(prompt), "long", max_tokens=300, ignore_eos=True)]
    )
    pieces = [sum(len(chunk.tokens) for chunk in chunks) for chunks in pair.backend.decoded]
    assert sum(pieces) > 1500
    assert max(pieces) <= FREE(2, 0) / 2e-4 + READY


def test_copies_go_first() -> None:
    """What the text itself says costs nothing, and the second model then has nothing to do."""
    alone, pair = TimedEngine(FakeBackend(model=FakeModel()), FREE), Pair(right=100)
    heard = alone.answer(generation(TokenPrompt(copying(alone.backend.model))))
    assert heard.usage is not None
    pair.backend.seconds = lambda tokens: 0.005 * (1 + tokens)
    pair.answer([generation(TokenPrompt(copying(pair.model)), "a")])
    assert accepted(pair.stepper) > 0.9 * heard.usage.accepted_tokens
    assert len(pair.backend.decoded) < len(COPIED) / 2


# What it holds


def following(tokens: list[int], slot: int = 0, caller: str = "") -> Sequence:
    """A sequence in a slot."""
    request = Generation(f"{slot}{caller}", TokenPrompt(tokens), GREEDY, caller=caller)
    sequence = Sequence(request, tokens, 100, FakeVocabulary())
    sequence.slot = slot
    return sequence


def model(**settings: int) -> DraftModel:
    return second(SecondBackend(FakeModel(), **settings))


def test_only_what_is_new_is_computed() -> None:
    """A sequence goes on, differs from what was written, or is another one."""
    one = model(slots=1)
    sequence = following([*range(1, 21)])
    assert one.behind(sequence) == 20
    one.catch_up(sequence, 8)
    assert one.behind(sequence) == 12
    one.write([(sequence, 4)])
    assert one.behind(sequence) == 1
    sequence.tokens += [5, 6]
    assert one.behind(sequence) == 2
    assert one.behind(following([*range(1, 11), 50, 60])) == 2


def test_nothing_of_another_caller_is_used() -> None:
    """Not even the time would tell what somebody else has asked."""
    one = model(batch=256)
    one.catch_up(following([*range(1, 100)], caller="a"), 200)
    mine = following([*range(1, 100)], caller="b")
    one.meet(mine)
    assert one.behind(mine) == 99
    elsewhere = following([*range(1, 100)], slot=2, caller="b")
    one.meet(elsewhere)
    assert one.behind(elsewhere) == 99


def test_long_beginning_is_copied_from_another_slot() -> None:
    """Many questions behind the same instructions: they are read once."""
    one = model(slots=3, batch=256)
    shared = [*range(1, COPY_PAYS + 20)]
    one.catch_up(following([*shared, 201, 202, 203]), 200)
    other = following([*shared, 210, 211], slot=2)
    assert one.behind(other) == len(other.tokens)
    one.meet(other)
    assert one.behind(other) == 2
    brief = following([*shared[: COPY_PAYS // 2], 210], slot=1)
    one.meet(brief)
    assert one.behind(brief) == len(brief.tokens)


def test_end_of_its_context_ends_its_drafts() -> None:
    """Its context may be the shorter one."""
    one = model(slots=1, context=20)
    sequence = following([*range(1, 18)])
    assert len(one.write([(sequence, LONGEST)])[sequence.id]) <= 3
    assert one.behind(following([*range(1, 21)])) is None


def test_token_that_it_does_not_have_is_not_computed() -> None:
    """Vocabularies may be padded to different lengths."""
    backend = SecondBackend(FakeModel())
    size = backend.vocabulary.size
    one = DraftModel(backend, size + 5, backend.clock)
    assert one.behind(following([1, 2, 3])) == 3
    assert one.behind(following([1, size + 2, 3])) is None


def test_token_that_the_first_model_does_not_have_is_not_written() -> None:
    """The same, the other way round."""
    backend = SecondBackend(FakeModel())
    prompt = [1, 2, 3]
    backend.model.script(prompt, [b"a", backend.vocabulary.pieces[-1]])
    last = len(backend.vocabulary.pieces) - 1
    one = DraftModel(backend, last, backend.clock)
    written = one.write([(following(prompt), 3)])["0"]
    assert written[:1] == [ord("a")]
    assert all(token < last for token in written)


def test_it_stops_where_it_is_not_sure() -> None:
    """Then it says nothing."""
    one = second(Doubter(FakeModel()))
    assert one.write([(following([1, 2, 3]), 5)]) == {"0": []}
