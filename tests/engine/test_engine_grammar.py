"""Grammars in the engine, over a fake decoder that would rather say something else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fake import FakeBackend
from hypothesis import given
from hypothesis import strategies as st
from stepping import Heard, Stepper, generation

from edge.engine.scheduler import MOST_FORCED
from edge.types import Generation, Grammar, Sampling

LIVELY = Sampling(temperature=1, seed=3)
SENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "state": {"enum": ["running", "stopped"]},
        "celsius": {"type": "integer", "minimum": -40, "maximum": 120},
    },
    "required": ["name", "state", "celsius"],
    "additionalProperties": False,
}


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def regex(text: str) -> Grammar:
    return Grammar("regex", text)


def ask(grammar: Grammar, stepper: Stepper | None = None, **fields: Any) -> Heard:
    stepper = stepper or Stepper(FakeBackend())
    return stepper.answer(generation("abc", grammar=grammar, **fields))


def chosen(heard: Heard) -> int:
    assert heard.usage is not None
    return heard.usage.completion_tokens - heard.usage.forced_tokens


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_follows_its_schema(seed: int) -> None:
    """Whatever the model would say; it is compact, and it ends when nothing may follow."""
    heard = ask(schema(SENSOR), sampling=Sampling(temperature=1, seed=seed))
    value = json.loads(heard.text)
    assert heard.reason == "stop"
    assert list(value) == ["name", "state", "celsius"]
    assert value["state"] in ("running", "stopped")
    assert -40 <= value["celsius"] <= 120
    assert heard.text == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_what_is_fixed_is_not_chosen() -> None:
    """Text that alone can come is computed with the prompt, or in chunks, and counted."""
    backend = FakeBackend()
    grammar = regex('begin=(yes|no)";;;;;end')
    heard = ask(grammar, Stepper(backend))
    assert re.fullmatch(grammar.text, heard.text)
    assert heard.reason == "stop"
    assert chosen(heard) == 1
    assert heard.usage is not None
    assert heard.usage.completion_tokens == len(heard.tokens)
    assert len(backend.decoded) == 1
    assert [delta.text for delta in heard.deltas] == [heard.text]


def test_a_long_text_that_is_fixed_is_cut_into_chunks() -> None:
    """A stream beside it gets a token in each step."""
    backend = FakeBackend(slots=2)
    stepper = Stepper(backend)
    beside = stepper.submit(generation("other", "other", ignore_eos=True, max_tokens=30))
    stepper.step()
    fixed = stepper.submit(generation("abc", grammar=regex("(1|2)" + "xy" * 50 + "(3|4)")))
    stepper.run()
    assert re.fullmatch("(1|2)(xy){50}(3|4)", fixed.text)
    assert max(len(chunk.tokens) for chunks in backend.decoded[2:] for chunk in chunks) == (
        MOST_FORCED
    )
    assert [len(delta.tokens) for delta in beside.deltas] == [1] * 30
    assert chosen(fixed) == 2


def test_a_prompt_is_not_starved_by_what_is_fixed() -> None:
    """Streams that compute more than a token in every step leave prompts their share."""
    stepper = Stepper(FakeBackend(slots=3, batch=8, context=2048))
    grammar = regex("((1|2)xyz){200}")
    for name in "ab":
        stepper.submit(generation(name, name, grammar=grammar))
    for _ in range(5):
        stepper.step()
    late = stepper.submit(generation("q" * 200, "late", max_tokens=1))
    for _ in range(150):
        stepper.step()
    assert late.reason == "length"
    assert stepper.heard["a"].reason is None


def test_the_batch_is_not_overfilled() -> None:
    """What is fixed fits into a batch that is hardly larger than the slots."""
    stepper = Stepper(FakeBackend(slots=4, batch=5))
    heard = [
        stepper.submit(generation(name, name, grammar=regex("((1|2)xyzuvw){9}"))) for name in "abcd"
    ]
    stepper.run()
    assert all(re.fullmatch("([12]xyzuvw){9}", one.text) for one in heard)


def test_a_limit_cuts_what_is_fixed() -> None:
    """`length` where the answer is not whole, `stop` where its last token was its end."""
    grammar = regex("(1|2)xyzuvw")
    assert ask(grammar, max_tokens=3).reason == "length"
    assert len(ask(grammar, max_tokens=3).tokens) == 3
    whole = ask(grammar)
    assert ask(grammar, max_tokens=len(whole.tokens)).reason == "stop"
    assert ask(regex("xyzuvw"), max_tokens=2).text == "xy"


def test_an_answer_of_which_nothing_is_to_choose() -> None:
    """It is complete before anything is computed; the engine has no business with it."""
    heard = ask(regex("xyz"))
    assert (heard.text, heard.reason, chosen(heard)) == ("xyz", "stop", 0)
    assert ask(regex("")).text == ""


def test_a_stop_string_in_what_is_fixed() -> None:
    """Ends the answer before it, as anywhere."""
    heard = ask(regex("(1|2)xyzuvw"), stop=["zu"])
    assert (heard.text[1:], heard.reason) == ("xy", "stop")


def test_the_end_is_allowed_only_where_it_may_be() -> None:
    """The model's end token ends an answer that may go on, also with ignore_eos."""
    stepper = Stepper(FakeBackend())
    model = stepper.backend.model
    prompt = model.vocabulary.tokenize("abc", special=False, bos=True)
    model.script(prompt, b"ab")
    for ignore in (False, True):
        heard = ask(regex("[ab]{2,9}"), stepper, ignore_eos=ignore)
        assert (heard.text, heard.reason) == ("ab", "stop")


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), LIVELY], ids=["greedy", "lively"])
@given(cut=st.integers(0, 60))
def test_an_answer_goes_on_after_a_crash(sampling: Sampling, cut: int) -> None:
    """From wherever the worker died, to the same text: the grammar is replayed too."""
    request = generation("abc", grammar=schema(SENSOR), sampling=sampling)
    whole = Stepper(FakeBackend()).answer(request)
    said: list[int] = []
    for delta in whole.deltas[: cut % len(whole.deltas)]:
        said += delta.tokens
    again = Stepper(FakeBackend()).answer(
        Generation("a", request.prompt, sampling, grammar=request.grammar, resume=said)
    )
    assert [*said, *again.tokens] == whole.tokens
    assert again.reason == whole.reason == "stop"


def test_log_probabilities_are_the_models_own() -> None:
    """Every token has one, of the distribution before the grammar, and none is left out."""
    grammar = regex("(1|2)xyz")
    heard = ask(grammar, logprobs=2)
    assert re.fullmatch(grammar.text, heard.text)
    assert [entry.chosen.token for entry in heard.logprobs] == heard.tokens
    assert "".join(entry.chosen.raw.decode() for entry in heard.logprobs) == heard.text
    free = Stepper(FakeBackend()).answer(generation("abc", logprobs=2, max_tokens=1))
    assert [a.token for a in heard.logprobs[0].top] == [a.token for a in free.logprobs[0].top]
    assert heard.logprobs[0].chosen.logprob < heard.logprobs[0].top[0].logprob


def test_free_and_bound_side_by_side() -> None:
    """Neither changes the other."""
    alone = Stepper(FakeBackend(slots=8)).answer(generation("f", "f", sampling=LIVELY))
    stepper = Stepper(FakeBackend(slots=8))
    heard = {
        f"{kind}{number}": stepper.submit(
            generation(
                "f" if kind == "free" else "abc",
                f"{kind}{number}",
                sampling=LIVELY,
                grammar=None if kind == "free" else schema(SENSOR),
            )
        )
        for number in range(4)
        for kind in ("free", "bound")
    }
    stepper.run()
    for name, one in heard.items():
        if name.startswith("free"):
            assert one.tokens == alone.tokens
        else:
            assert json.loads(one.text)["state"] in ("running", "stopped")


@pytest.mark.parametrize("kind", ["lark", "gbnf"])
def test_grammars_of_other_kinds(kind: Any) -> None:
    """Lark, and GBNF as llama.cpp has it."""
    text = {
        "lark": 'start: item ("," item)*\nitem: /[0-9]{2}/ | "none"',
        "gbnf": 'root ::= item ("," item)*\nitem ::= [0-9] [0-9] | "none"',
    }[kind]
    for seed in range(4):
        heard = ask(Grammar(kind, text), sampling=Sampling(seed=seed), max_tokens=60)
        whole = heard.text if heard.reason == "stop" else heard.text.rpartition(",")[0]
        assert re.fullmatch("([0-9]{2}|none)(,([0-9]{2}|none))*", whole or "00")
