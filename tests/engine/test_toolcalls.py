"""Calls of tools are read out of a text, however it is cut into pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.toolcalls import BETWEEN, CallReader, gather, spell
from edge.types import FinishReason, ToolCall

SPICY = st.text('"\\{}[]<>/tool_callé\n 日', max_size=12)
VALUES = st.recursive(
    SPICY | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SPICY, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "lookup_part"]), st.dictionaries(SPICY, VALUES, max_size=3)),
    max_size=3,
)
CUTS = st.lists(st.integers(0, 400), max_size=40)


def text_of(said: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    spelled = [
        spell(ToolCall("", name, json.dumps(value, ensure_ascii=False))) for name, value in calls
    ]
    return said + BETWEEN.join(spelled)


def read(
    text: str, cuts: list[int], reason: FinishReason = "stop"
) -> tuple[str, list[ToolCall], FinishReason]:
    """What comes of a text in pieces."""
    reader, said, calls = CallReader(), "", []
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in pairwise(bounds):
        more, pieces = reader.feed(text[start:end])
        said += more
        gather(calls, pieces)
    rest, reason = reader.finish(reason)
    return said + rest, calls, reason


@given(SPICY.filter(lambda text: "<tool_call>" not in text), CALLS, CUTS)
def test_what_was_spelled_is_read(
    said: str, calls: list[tuple[str, dict[str, Any]]], cuts: list[int]
) -> None:
    """Text, names and arguments to the letter; only blanks before a call are nobody's."""
    text, found, reason = read(text_of(said, calls), cuts)
    assert text == (said.rstrip() if calls else said)
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls
    assert len({call.id for call in found}) == len(calls)
    assert reason == ("tool_calls" if calls else "stop")


@given(CALLS.filter(bool), CUTS, st.integers(0, 400))
def test_a_text_that_was_cut(
    calls: list[tuple[str, dict[str, Any]]], cuts: list[int], limit: int
) -> None:
    """What is there of the calls is the beginning of what they would have been."""
    text = text_of("Now: ", calls)[:limit]
    said, found, reason = read(text, cuts, "length")
    assert reason == "length"
    assert "Now: ".startswith(said) or said.startswith("Now:")
    for call, (name, value) in zip(found, calls, strict=False):
        assert call.name == name
        assert json.dumps(value, ensure_ascii=False).startswith(call.arguments)


def test_arguments_come_as_they_are_made() -> None:
    """A character of them is out as soon as it is in, and nothing of the end is."""
    reader = CallReader()
    reader.feed('<tool_call>\n{"name": "f", "arguments": ')
    for piece in ('{"a"', ":", '{"b":', '"}"', "}", "}"):
        _, (found,) = reader.feed(piece)
        assert found.arguments == piece
    assert reader.feed("}\n</tool_call>") == ("", [])
    assert reader.finish("stop") == ("", "tool_calls")


def test_an_end_inside_of_a_call() -> None:
    """What is not whole is no end with calls, whatever the reason."""
    text = '<tool_call>\n{"name": "f", "arguments": {"a":1}}\n</tool_call>\n<tool_call>\n'
    _, calls, reason = read(text + '{"name": "g", "arguments": {"b":', [])
    assert [call.arguments for call in calls] == ['{"a":1}', '{"b":']
    assert reason == "stop"


def test_blanks_at_the_end_belong_to_the_text() -> None:
    """Held back while a call may follow them, and given out when none does."""
    reader = CallReader()
    assert reader.feed("Yes. \n <tool") == ("Yes.", [])
    assert reader.finish("stop") == (" \n <tool", "stop")
