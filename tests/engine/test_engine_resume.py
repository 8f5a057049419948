"""Going on after a worker died: the tokens already sent are replayed, and nothing is sent twice."""

from __future__ import annotations

import msgspec
import pytest
from fake import FakeBackend, FakeModel
from stepping import Heard, Stepper, generation

from edge.types import Generation, Sampling

STOPS: list[list[str]] = [[], ["abc"], ["é"], ["😀", "bcab"], [" 日", "b. "], ["zzz", "ca", "cab"]]


def texts_of(heard: Heard) -> list[str]:
    """The text that a client had after each token."""
    texts, text = [""], ""
    for delta in heard.deltas:
        text += delta.text
        texts.append(text)
    return texts


def check_all_cuts(model: FakeModel, request: Generation) -> None:
    whole = Stepper(FakeBackend(model=model)).answer(request)
    before = texts_of(whole)
    for cut in range(len(whole.tokens) + 1):
        resumed = msgspec.structs.replace(request, resume=whole.tokens[:cut])
        rest = Stepper(FakeBackend(model=model)).answer(resumed)
        assert before[cut] + rest.text == whole.text
        assert rest.tokens == whole.tokens[cut:]
        assert rest.reason == whole.reason
        assert rest.usage is not None
        assert rest.usage.completion_tokens == len(whole.tokens)
        assert rest.usage.prompt_tokens == whole.usage.prompt_tokens  # type: ignore[union-attr]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(seed=5)])
def test_resumed_answer_goes_on_where_it_was(stop: list[str], sampling: Sampling) -> None:
    """Cut at every token, the two parts are the whole: no loss, no doubling, the same end."""
    model = FakeModel()
    for number in range(8):
        request = generation(
            f"question {number}", stop=stop, sampling=sampling, max_tokens=40, ignore_eos=number > 5
        )
        check_all_cuts(model, request)


@pytest.mark.parametrize("stop", [[], ["STOP"], ["日😀"], ["é日", "x"]])
@pytest.mark.parametrize("limit", [None, 5, 9])
def test_cut_within_a_character_or_a_stop_string(stop: list[str], limit: int | None) -> None:
    """Half characters and held beginnings of stop strings survive the cut."""
    model = FakeModel()
    prompt = model.vocabulary.tokenize("hey", special=False, bos=True)
    model.script(prompt, "é日STé日😀SSTOP and more".encode())
    check_all_cuts(model, generation("hey", stop=stop, max_tokens=limit))


def test_resumed_tokens_are_computed_like_a_prompt() -> None:
    """They go in chunks, not one by one, and are no part of the cached prompt."""
    backend = FakeBackend()
    heard = Stepper(backend).answer(
        generation("hey", resume=[*b"abcabcabcabc"], max_tokens=13, ignore_eos=True)
    )
    assert [len(chunks[0].tokens) for chunks in backend.decoded] == [4 + 12]
    assert (heard.cached, len(heard.tokens)) == (0, 1)


def test_resume_waits_for_no_own_prefix() -> None:
    """Many answers with one long prompt resume together: the prompt is computed once."""
    stepper = Stepper(FakeBackend(slots=6, batch=64))
    for number in range(6):
        stepper.submit(
            generation("p" * 150, f"{number}", resume=[ord("a") + number] * 20, max_tokens=25)
        )
    stepper.run()
    assert stepper.backend.computed < 151 + 6 * (20 + 6)
    for number in range(6):
        assert len(stepper.heard[f"{number}"].tokens) <= 5


def test_tokens_after_the_end_are_ignored() -> None:
    """A resume that goes past a stop string ends there, and says so."""
    request = generation("hey", stop=["b"], resume=[*b"abccc"])
    heard = Stepper(FakeBackend()).answer(request)
    assert (heard.text, heard.tokens, heard.reason) == ("", [], "stop")
    assert heard.usage is not None
    assert heard.usage.completion_tokens == 2


def test_resume_that_was_complete_computes_nothing() -> None:
    """If only the word that it was finished got lost, that word is all that comes."""
    backend = FakeBackend()
    heard = Stepper(backend).answer(generation("hey", resume=[*b"abc"], max_tokens=3))
    assert (heard.text, heard.reason, backend.computed) == ("", "length", 0)


def test_resume_longer_than_the_room_is_cut_at_the_limit() -> None:
    """The context holds prompt and resume; what does not fit is the end."""
    backend = FakeBackend(context=32)
    heard = Stepper(backend).answer(generation("hey", resume=[97] * 40, ignore_eos=True))
    assert heard.reason == "length"
    assert heard.usage is not None
    assert heard.usage.completion_tokens == 28
