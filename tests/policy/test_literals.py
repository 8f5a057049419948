"""Nobody gets the answer to a question with other numbers in it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.answers.likeness import MOST_CHARACTERS, likeness
from edge.answers.literals import literals
from edge.types import ChatPrompt, Message, Request, Sampling, TextPrompt, Tool, Tools

QUESTION = "What does a pressure of {} mean for the press?"

numbers = st.one_of(
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(0, 10**9).map(lambda n: f"{n:,}"),
    st.integers(0, 10**9).map(lambda n: f"{n:,}".replace(",", " ")),
    st.integers(0, 10**9).map(lambda n: f"{n:,}".replace(",", "\u202f")),
    st.integers(0, 10**9).map(lambda n: f"{n:,}".replace(",", ".")),
    st.fractions().map(str),
    st.integers(0, 2**32).map(hex),
    st.times().map(str),
    st.dates().map(str),
    st.sampled_from(["½", "⅓", "²", "Ⅳ", "三", "٣", "३", "３", "①"]),
)
units = st.sampled_from(["", " bar", " psi", " mW", " MW", "%", " °C", "mm", " mm", " mbar"])


def group(text: str, **fields: Any) -> bytes | None:
    prompt = ChatPrompt([Message("system", "Be short."), Message("user", text)])
    request = Request("", [prompt], Sampling(temperature=0.0), **fields)  # type: ignore[arg-type]
    found = likeness(request, "local:m file", "caller", "minilm")
    return found and found.group


@given(numbers, units, numbers, units, st.sampled_from([QUESTION, "{}", "is it {}?", "a {} b {}"]))
def test_other_numbers_are_another_question(
    one: str, unit: str, other: str, other_unit: str, question: str
) -> None:
    """However they are spelled, and whatever their units are: the two never meet."""
    first, second = (question.format(number, number) for number in (one + unit, other + other_unit))
    assume(first.split() != second.split())
    assert literals(first) != literals(second)
    if max(len(first), len(second)) <= MOST_CHARACTERS:
        assert group(first) != group(second)


@given(st.text(max_size=MOST_CHARACTERS), st.text(max_size=MOST_CHARACTERS))
def test_whatever_the_texts(one: str, other: str) -> None:
    """Two texts that have their literals in common have their digits in common, in their order."""
    if literals(one) == literals(other):
        assert re.findall(r"\d", one) == re.findall(r"\d", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pressure 3 bar", "pressure 9 bar"),
        ("pressure 3 bar", "pressure 3 psi"),
        ("pressure 3 bar", "pressure -3 bar"),
        ("pressure < 3 bar", "pressure > 3 bar"),
        ("pressure 1,000 bar", "pressure 1.000 bar"),
        ("from 3 to 9 bar", "from 9 to 3 bar"),
        ("output of 3 mW", "output of 3 MW"),
        ("a pressure of three bar", "a pressure of nine bar"),
        ("ein Druck von drei bar", "ein Druck von neun bar"),
        ("the valve is open", "the valve is closed"),
        ("the valve is not open", "the valve is open"),
        ("the valve isn't open", "the valve is open"),
        ("das Ventil ist nicht offen", "das Ventil ist offen"),
        ("start the pump", "stop the pump"),
        ("what does valve A do", "what does valve B do"),
        ("what does the PLC do", "what does the HMI do"),
        ("error E-04 on line 2", "error E-05 on line 2"),
        ("error E-04 on line 2", "error E-04 on line 3"),
        ("M8 screws", "M10 screws"),
        ("is it 3.", "is it 3.5"),
        ("(3)", "(4)"),
        ("1/2 turn", "1/4 turn"),
        ("at 10:30", "at 11:30"),
        ("turn it up", "turn it down"),
    ],
)
def test_what_a_vector_overlooks(one: str, other: str) -> None:
    assert literals(one) != literals(other)
    assert group(one) != group(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is a lathe?", "what's a lathe"),
        ("Why does the press shake at 3 bar?", "Why is the press shaking at 3 bar"),
        ("Tell me, what is error E-04?", "What is error E-04"),
        ("I don't know why it stands still", "I do not know why it stands still."),
    ],
)
def test_the_same_in_other_words(one: str, other: str) -> None:
    """They may share an answer, if their vectors say so."""
    assert group(one) == group(other) is not None


def test_all_else_has_to_be_the_same() -> None:
    """The conversation before, the model, the caller, how it is answered, and the tools."""
    prompt = ChatPrompt([Message("system", "Be short."), Message("user", "Why?")])
    request = Request("", [prompt], Sampling(temperature=0.0))

    def changed(target: str = "t", caller: str = "c", embedder: str = "e", **fields: Any) -> bytes:
        other = msgspec.structs.replace(request, **fields)
        found = likeness(other, target, caller, embedder)
        assert found is not None
        return found.group

    tool = Tool("stop", "{}", "tools[0]")
    groups = [
        changed(),
        changed(target="u"),
        changed(caller="d"),
        changed(embedder="f"),
        changed(max_tokens=5),
        changed(stop=["x"]),
        changed(sampling=Sampling(temperature=0.5, seed=1)),
        changed(prompts=[ChatPrompt([Message("user", "Why?")])]),
        changed(prompts=[ChatPrompt(prompt.messages, Tools([tool]))]),
        changed(prompts=[ChatPrompt([*prompt.messages, *prompt.messages])]),
    ]
    assert len(set(groups)) == len(groups)


@pytest.mark.parametrize(
    "prompts",
    [
        [TextPrompt("Why?")],
        [ChatPrompt([Message("user", "Why?"), Message("assistant", "Because")])],
        [ChatPrompt([Message("user", "Why?")]), ChatPrompt([Message("user", "Why?")])],
        [ChatPrompt([Message("user", "x" * (MOST_CHARACTERS + 1))])],
        [ChatPrompt([Message("user", "")])],
        [],
    ],
)
def test_what_is_answered_for_itself_only(prompts: list[object]) -> None:
    request = Request("", prompts, Sampling(temperature=0.0))  # type: ignore[arg-type]
    assert likeness(request, "t", "c", "e") is None
