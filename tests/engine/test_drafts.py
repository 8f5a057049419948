"""Drafts: when they are worth it, and that no text depends on them."""

from __future__ import annotations

import random

import pytest
from fake import FakeBackend, FakeModel, expected
from guessing import Guesser
from stepping import GREEDY, Stepper, generation, varied
from timed import COPIED, DEAR, ENTRY, FREE, HALF, Machine, TimedEngine, copying

from edge.engine.draft_cost import LONGEST, REFRESH_STEPS, TRIAL, WORTH, DraftCost, Offer
from edge.types import Grammar, Sampling, TokenPrompt


def learned(machine: Machine, sequences: int, chance: float = 0.95, steps: int = 100) -> DraftCost:
    """After so many steps of sequences that can always be drafted for."""
    cost = DraftCost()
    for _ in range(steps):
        room = cost.room(sequences)
        length, count = (
            cost.best(sequences, [Offer(chance, LONGEST)] * sequences, room)[:2] if room else (0, 0)
        )
        cost.observe(sequences, length * count, machine(sequences, length * count))
    return cost


def best_length(cost: DraftCost, sequences: int, chance: float) -> int:
    """Of a draft for one of them, whatever the room."""
    return cost.best(sequences, [Offer(chance, LONGEST)], LONGEST).length


# What pays


def test_nothing_is_drafted_before_a_plain_step_was_measured() -> None:
    """Without one nobody can tell what a draft costs."""
    cost = DraftCost()
    assert cost.room(3) == 0
    cost.observe(3, 0, 0.05)
    assert cost.room(3) == TRIAL


def test_length_is_the_best_for_its_price() -> None:
    """Of all lengths the one that makes the most tokens in the time, by trying them all."""
    cost = learned(HALF, 1)
    for chance in (0.3, 0.6, 0.8, 0.9, 0.99):
        rates = [
            sum(chance**i for i in range(length + 1)) / HALF(1, length)
            for length in range(LONGEST + 1)
        ]
        rates[0] *= WORTH
        assert best_length(cost, 1, chance) == rates.index(max(rates))


def test_free_tokens_are_drafted_on_a_small_chance() -> None:
    """A GPU computes some more in the same time."""
    assert best_length(learned(FREE, 1), 1, 0.3) >= 2


def test_dear_tokens_are_not_drafted() -> None:
    """Where a step takes time in proportion to its tokens nothing is gained."""
    assert best_length(learned(DEAR, 4), 4, 0.97) == 0


def test_joining_is_paid_once() -> None:
    """What drafts cost a step whatever their length is known apart from what each token costs: two
    sequences pay where one does not, and then with as many tokens as they have."""
    cost = learned(ENTRY, 8)
    assert cost.best(8, [Offer(0.95, 4)], 100)[:2] == (0, 0)
    assert cost.best(8, [Offer(0.95, 4)] * 4, 100)[:2] == (4, 4)


def test_drafts_of_a_step_are_equally_long() -> None:
    """A shorter one would be a batch of its own: it is cut, or left out."""
    cost = learned(FREE, 4)
    for shortest, meant in ((2, (12, 2)), (9, (9, 3))):
        offers = [Offer(0.99, shortest), Offer(0.99, 12), Offer(0.98, 12)]
        assert cost.best(4, offers, 100)[:2] == meant


def test_others_are_not_held_up() -> None:
    """Beside others drafts lengthen a step to twice its length at most; alone to any."""
    cost = learned(HALF, 4)
    assert HALF(4, cost.room(4)) <= 2.05 * HALF(4, 0)
    assert learned(HALF, 1, chance=1).room(1) >= LONGEST


def test_room_grows_with_what_was_measured() -> None:
    """Costs need not be linear, so long drafts are approached."""
    cost = DraftCost()
    cost.observe(1, 0, 0.02)
    seen = [TRIAL]
    for _ in range(10):
        drafted = min(LONGEST, cost.room(1))
        assert drafted <= 2 * max(seen)
        seen.append(drafted)
        cost.observe(1, drafted, 0.02)
    assert max(seen) == LONGEST


def test_plain_step_is_due_once_in_a_while() -> None:
    """What a step takes without drafts changes with the machine and the length of texts."""
    cost = DraftCost()
    cost.observe(2, 0, 0.02)
    for _ in range(REFRESH_STEPS):
        assert cost.room(2) > 0
        cost.observe(2, 1, 0.021)
    assert cost.room(2) == 0
    cost.observe(2, 0, 0.02)
    assert cost.room(2) > 0


def test_hiccup_does_not_end_drafting() -> None:
    """One step a hundred times as long, and even many of them, are forgotten."""
    cost = learned(HALF, 1)
    wanted = best_length(cost, 1, 0.97)
    assert wanted > 1
    for hiccups in (1, 50):
        for _ in range(hiccups):
            cost.observe(1, 8, 100 * HALF(1, 8))
        for _ in range(2000):
            room = cost.room(1)
            length = cost.best(1, [Offer(0.97, LONGEST)], room).length if room else 0
            if room and not length:
                cost.doubt()
            cost.observe(1, length, HALF(1, length))
        assert abs(best_length(cost, 1, 0.97) - wanted) <= 1


# Whom


def test_copied_text_takes_few_steps() -> None:
    """The answer is the prompt again: several tokens come with most steps."""
    model = FakeModel()
    stepper = TimedEngine(FakeBackend(model=model), FREE)
    heard = stepper.answer(generation(TokenPrompt(copying(model))))
    assert heard.text.encode() == bytes(COPIED)
    assert stepper.engine.steps < len(COPIED) / 2
    assert heard.usage is not None
    assert heard.usage.accepted_tokens > len(COPIED) / 2
    assert heard.usage.drafted_tokens <= heard.usage.accepted_tokens + LONGEST


def test_text_that_repeats_nothing_has_no_drafts() -> None:
    """It costs nothing, and what is found by accident is left alone soon."""
    stepper = TimedEngine(FakeBackend(slots=1), HALF)
    drafted = tokens = 0
    for number in range(40):
        heard = stepper.answer(generation(f"Question {number}", max_tokens=200, ignore_eos=True))
        assert heard.usage is not None
        drafted += heard.usage.drafted_tokens
        tokens += heard.usage.completion_tokens
    assert drafted < tokens / 100


def test_draft_ends_with_the_answer() -> None:
    """Nothing is drafted behind a token that ends answers, nor beyond the limit."""
    model = FakeModel()
    backend = FakeBackend(model=model)
    end = model.vocabulary.eos
    prompt = [*COPIED, end, *b"and so on and on", *b"x"]
    model.script(prompt, bytes(COPIED))
    stepper = TimedEngine(backend, FREE)
    assert stepper.answer(generation(TokenPrompt(prompt))).reason == "stop"
    for chunks in backend.decoded:
        for chunk in chunks:
            if chunk.outputs > 1:
                assert end not in chunk.tokens[:-1]
    limited = stepper.answer(generation(TokenPrompt(prompt), "b", max_tokens=20))
    assert limited.tokens == COPIED[:20]
    assert len(prompt) + 20 > max(c.start + len(c.tokens) for c in backend.decoded[-1])


def test_model_that_cannot_go_back_has_no_drafts() -> None:
    """What turned out wrong could not be taken out of its slot."""
    model = FakeModel()
    stepper = TimedEngine(FakeBackend(model=model, can_truncate=False), FREE)
    heard = stepper.answer(generation(TokenPrompt(copying(model))))
    assert heard.text.encode() == bytes(COPIED)
    assert heard.usage is not None
    assert heard.usage.drafted_tokens == 0


def test_many_sequences_share_the_rows_there_are() -> None:
    """The fake asserts that there are never more output rows than the backend has."""
    model = FakeModel()
    backend = FakeBackend(slots=6, batch=13, model=model)
    stepper = TimedEngine(backend, FREE)
    heard = [
        stepper.submit(generation(TokenPrompt(copying(model, name)), name)) for name in "abcdef"
    ]
    stepper.run()
    assert all(one.text.encode() == bytes(COPIED) for one in heard)
    assert sum(one.usage.accepted_tokens for one in heard if one.usage) > 100


# Exactness


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5)])
def test_text_does_not_depend_on_drafts(seed: int, sampling: Sampling) -> None:
    """Right, wrong and half-right drafts: tokens, text, reason, log probabilities are the same."""
    request = varied(seed, sampling)
    plain = Stepper(FakeBackend()).answer(request)
    backend = FakeBackend()
    drafter = Guesser(backend.model, random.Random(seed))
    drafted = Stepper(backend, drafter=drafter).answer(request)
    wanted = expected(backend.model, request, backend.context)
    assert drafted.tokens == plain.tokens == wanted.tokens
    assert drafted.text == plain.text == wanted.text
    assert drafted.reason == plain.reason == wanted.reason
    assert drafted.logprobs == plain.logprobs


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5)])
def test_grammar_goes_with_drafts(seed: int, sampling: Sampling) -> None:
    """Masks, forced tokens and drafts beside each other; drafts that the grammar forbids too."""
    request = generation(
        f"Text {seed}",
        sampling=sampling,
        max_tokens=80,
        logprobs=0 if seed % 4 == 0 else None,
        grammar=Grammar("regex", r'\{"name":"[abc]{4,9}","state":"(ab|bc)[abc. ]{3,20}"\}'),
    )
    plain = Stepper(FakeBackend()).answer(request)
    backend = FakeBackend()
    drafter = Guesser(backend.model, random.Random(seed))
    drafted = Stepper(backend, drafter=drafter).answer(request)
    assert (drafted.tokens, drafted.text, drafted.reason) == (
        plain.tokens,
        plain.text,
        plain.reason,
    )
    assert drafted.logprobs == plain.logprobs


def test_slot_keeps_nothing_of_a_wrong_draft() -> None:
    """What stays for the next prompt is what was said."""
    model = FakeModel()
    backend = FakeBackend(slots=1, model=model)
    stepper = Stepper(backend, drafter=Guesser(model, random.Random(2), right=0.5))
    heard = stepper.answer(generation("Text", max_tokens=50))
    said = [*model.vocabulary.tokenize("Text", special=False, bos=True), *heard.tokens]
    assert backend.held[0] == said[: len(backend.held[0])]
    assert len(backend.held[0]) >= len(said) - 1
