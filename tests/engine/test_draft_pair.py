"""Two real models, one of which drafts for the other: the same texts, token for token."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from random_models import confident, recurrent, sliding_window
from stepping import GREEDY, Heard
from test_draft_llama import LOG, SETTINGS, RealStepper, asked, assert_same, mixed, stepper

from edge.engine.draft_load import DraftBackend, load_draft
from edge.engine.draft_model import DraftModel
from edge.engine.drafts import Drafter
from edge.engine.llama import LlamaBackend
from edge.engine.slots import COPY_PAYS
from edge.errors import ModelLoadFailed
from edge.types import EngineSettings, Generation

PLAIN, EACH, WRITING = 0.02, 0.002, 0.002
"""Seconds of a step, of a drafted token in it, and of a step of the second model."""


@pytest.fixture(scope="module")
def first(default_model_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend("smollm2", default_model_path, SETTINGS, LOG)
    yield backend
    backend.close()


def loaded(first: LlamaBackend, path: Path, settings: EngineSettings = SETTINGS) -> DraftBackend:
    wanted = msgspec.structs.replace(settings, draft_model="small", draft_path=str(path))
    return load_draft(first, wanted, LOG)


@pytest.fixture(scope="module")
def good(first: LlamaBackend, coarse_model_path: Path) -> Iterator[DraftBackend]:
    backend = loaded(first, coarse_model_path)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def wrong(default_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return confident(tmp_path_factory.mktemp("wrong") / "wrong.gguf", default_model_path)


class PricedDrafts(Drafter):
    """Steps take the same on any machine."""

    def __init__(self, second: LlamaBackend, size: int) -> None:
        ticks = itertools.count()
        super().__init__(DraftModel(second, size, lambda: WRITING * next(ticks)))

    def observe(self, sequences: int, drafted: int, seconds: float) -> None:
        super().observe(sequences, drafted, PLAIN + EACH * drafted)


def drafted_by(first: LlamaBackend, second: LlamaBackend) -> RealStepper:
    for slot in range(second.slots):
        second.truncate(slot, 0)
    return stepper(first, PricedDrafts(second, first.vocabulary.size))


def answer(one: RealStepper, requests: list[Generation]) -> list[Heard]:
    heard = [one.submit(request) for request in requests]
    one.run()
    return heard


def drafted(heard: list[Heard]) -> tuple[int, int]:
    usages = [one.usage for one in heard if one.usage]
    return sum(u.drafted_tokens for u in usages), sum(u.accepted_tokens for u in usages)


def test_good_model_makes_the_same_texts_in_fewer_steps(
    first: LlamaBackend, good: DraftBackend
) -> None:
    """Alone, where the text repeats nothing."""
    plain, helped = stepper(first, None), drafted_by(first, good)
    requests = [asked("chat", number, sampling=GREEDY, max_tokens=48) for number in range(3)]
    tokens = kept = 0
    for request in requests:
        without, heard = plain.answer(request), helped.answer(request)
        assert_same(without, heard)
        tokens += len(heard.tokens)
        kept += drafted([heard])[1]
    assert kept > tokens / 4
    assert helped.engine.steps < 0.8 * plain.engine.steps


def test_many_streams_are_the_same_with_a_second_model(
    first: LlamaBackend, good: DraftBackend
) -> None:
    """Copies and others, sampled and constrained, side by side."""
    requests = mixed()[:6]
    plain = answer(stepper(first, None), requests)
    helped = answer(drafted_by(first, good), requests)
    for one, other in zip(plain, helped, strict=True):
        assert_same(one, other)
    assert drafted(helped)[1] > 30


def test_parked_and_cancelled_sequences_leave_the_second_model_in_order(
    first: LlamaBackend, good: DraftBackend
) -> None:
    """An alarm takes the slot of a batch stream, others leave: what it holds is found out anew."""
    requests = [asked("chat", n, max_tokens=20, priority="batch") for n in range(first.slots)]
    plain = answer(stepper(first, None), requests)
    helped = drafted_by(first, good)
    heard = [helped.submit(request) for request in requests]
    for _ in range(6):
        helped.step()
    helped.cancel(requests[0].id)
    others = range(first.slots, first.slots + 3)
    alarms = [asked("chat", n, priority="critical", max_tokens=8) for n in others]
    for alarm in alarms:
        helped.submit(alarm)
    helped.run()
    for one, other in list(zip(plain, heard, strict=True))[1:]:
        assert_same(one, other)


def test_copy_of_a_beginning_says_the_same(first: LlamaBackend, good: DraftBackend) -> None:
    """Sequences that share one are followed from a copy of its cache, whatever is done before the
    data has moved."""
    for slot in range(good.slots):
        good.truncate(slot, 0)
    helped = stepper(first, None)
    tokens = helped.intake.prepare(asked("extract", 1)).tokens
    assert len(tokens) > COPY_PAYS + 10

    def follow(one: DraftModel, slot: int, last: int) -> dict[str, list[int]]:
        sequence = helped.intake.prepare(asked("extract", 1))
        sequence.tokens[-4] = last
        sequence.slot = slot
        one.meet(sequence)
        return one.write([(sequence, 6)])

    def model() -> DraftModel:
        return DraftModel(good, first.vocabulary.size)

    alone = []
    for last in (1000, 2000, 3000):
        alone.append(follow(model(), 5, last))
        good.truncate(5, 0)
    one = model()
    assert [follow(one, slot, last) for slot, last in ((0, 1000), (3, 2000), (2, 3000))] == alone


def test_wrong_model_is_left_alone(first: LlamaBackend, wrong: Path) -> None:
    """It is sure and never right: a few drafts tell, and then there are none but for trials."""
    second = loaded(first, wrong)
    try:
        plain, helped = stepper(first, None), drafted_by(first, second)
        request = asked("chat", 0, max_tokens=120, ignore_eos=True)
        without, heard = plain.answer(request), helped.answer(request)
        assert_same(without, heard)
        made, kept = drafted([heard])
        # Each of 120 steps would draft several; how soon that stops depends on what steps took.
        assert 0 < made < 60
        assert kept < made / 4
    finally:
        second.close()


# Who may draft for whom


def test_context_is_as_long_as_it_was_trained_for(
    first: LlamaBackend, default_model_path: Path, wrong: Path
) -> None:
    """Which may be less than the first model's: then it stops drafting earlier."""
    second = loaded(first, wrong)
    assert (second.slots, second.context) == (first.slots, first.context)
    second.close()
    long = msgspec.structs.replace(SETTINGS, slots=1, context=1024)
    large = LlamaBackend("large", default_model_path, long, LOG)
    second = loaded(large, wrong, long)
    assert second.context == 512 < large.context
    second.close()
    large.close()


def test_model_with_another_vocabulary_is_refused(first: LlamaBackend, tmp_path: Path) -> None:
    """By the key to change, and with what is different."""
    path = sliding_window(tmp_path / "other.gguf")
    with pytest.raises(ModelLoadFailed, match=r"models\.drafts\.smollm2: small .*tokenizers"):
        loaded(first, path)


def test_model_that_cannot_go_back_is_refused(first: LlamaBackend, tmp_path: Path) -> None:
    """What was guessed wrong could not be taken out of it."""
    path = recurrent(tmp_path / "state.gguf")
    with pytest.raises(ModelLoadFailed, match=r"models\.drafts\.smollm2: small cannot draft"):
        loaded(first, path)
    settings = msgspec.structs.replace(SETTINGS, slots=1)
    recurrent_first = LlamaBackend("m", path, settings, LOG)
    with pytest.raises(ModelLoadFailed, match="nothing can draft for it") as refused:
        loaded(recurrent_first, path, settings)
    assert refused.value.hint == "take models.drafts.m away"
    recurrent_first.close()


def test_file_that_cannot_be_loaded_is_refused(first: LlamaBackend, tmp_path: Path) -> None:
    """With llama.cpp's reason, as for any model."""
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(ModelLoadFailed, match="cannot load"):
        loaded(first, tmp_path / "bad.gguf")
