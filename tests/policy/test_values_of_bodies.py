"""Bodies of more values than anybody needs are refused before they are decoded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import InvalidRequest
from edge.openai import parse
from edge.openai.parse import check_values, decode
from edge.openai.schema import CompletionBody

FEW = 20


@given(texts=st.lists(st.text(alphabet=',"\\aé', max_size=9), max_size=2 * FEW))
def test_commas_within_texts_are_no_values(texts: list[str]) -> None:
    """Whatever is escaped in them."""
    raw = msgspec.json.encode(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "MOST_VALUES", FEW)
        if len(texts) <= FEW:
            check_values(raw)
        else:
            with pytest.raises(InvalidRequest):
                check_values(raw)


def test_texts_that_are_longer_than_a_block() -> None:
    """A quote or a comma at any place of it is still within the text."""
    for shift in range(8):
        text = "x" * shift + ',\\",' * 60_000
        assert decode(msgspec.json.encode({"prompt": text}), CompletionBody).prompt == text


def test_too_many_little_lists() -> None:
    """They would take Python's lock for a second."""
    raw = b'{"prompt":[' + b"[1]," * 2_000_000 + b"[1]]}"
    with pytest.raises(InvalidRequest, match="values"):
        decode(raw, CompletionBody)
