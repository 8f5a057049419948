"""Chunks of the many servers that speak OpenAI's API, each in its own way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge.cloud.answer import Answer, logprobs
from edge.cloud.failure import CallFailed
from edge.cloud.key import Key
from edge.types import Alternative, TokenLogprob


@pytest.fixture
def answer() -> Answer:
    return Answer("x", Key("sk-secret"))


def feed(answer: Answer, *chunks: Any) -> str:
    """The text of some chunks."""
    pieces = [answer.event(c if isinstance(c, bytes) else msgspec.json.encode(c)) for c in chunks]
    return "".join(piece.text for piece in pieces if piece)


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (delta(role="assistant", content=""), ""),
        (delta(role="assistant", content=None), ""),
        (delta(content="a"), "a"),
        (delta(content="a", tool_calls=[]), "a"),
        (delta(content=None, reasoning_content="hm"), ""),
        (delta(content=None, refusal="I cannot"), "I cannot"),
        ({"choices": [{"text": "b", "finish_reason": ""}], "usage": None, "new": [1]}, "b"),
        ({"choices": [{"delta": {"content": "ü"}, "logprobs": None}]}, "ü"),
        ({"choices": [], "prompt_filter_results": [{}]}, ""),
        ({"choices": [], "usage": {"prompt_tokens": 1}}, ""),
    ],
)
def test_chunks(answer: Answer, chunk: dict[str, Any], text: str) -> None:
    """What counts as text, and what is nothing without being wrong."""
    assert feed(answer, chunk) == text
    assert answer.pieces == bool(text)
    assert answer.reason is None


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"", "garbage"),
        (b"{", "garbage"),
        (b"\xff\xfe", "garbage"),
        (b"[" * 100_000, "garbage"),
        (b"null", "garbage"),
        (b'{"choices": {}}', "garbage"),
        (b'{"choices": []}', "garbage"),
        (b"{}", "garbage"),
        (b'{"choices": [{"delta": {"content": 5}}]}', "garbage"),
        (b'{"choices": [{"delta": {"tool_calls": [{"id": "1"}]}}]}', "garbage"),
        (b'{"choices": [{"finish_reason": "tool_calls", "delta": {}}]}', "garbage"),
        (b'{"choices": [{"finish_reason": "error", "delta": {}}]}', "garbage"),
        (b'{"error": {"message": "no memory"}}', "server_error"),
        (b'{"error": "no memory"}', "server_error"),
        (b'{"error": {"code": 429}}', "rate_limit_exceeded"),
        (b'{"error": {"code": "content_filter"}}', "content_filter"),
        (b"[DONE]", "cut"),
    ],
)
def test_no_answers(answer: Answer, data: bytes, outcome: str) -> None:
    """What is no answer says so, and never gives text."""
    with pytest.raises(CallFailed) as caught:
        answer.event(data)
    assert caught.value.failure.outcome == outcome


@pytest.mark.parametrize("how", ["message", "reason"])
def test_key_in_words(answer: Answer, how: str) -> None:
    """Whatever an upstream says is shown without the key."""
    chunk = {"error": {"message": "bad sk-secret!"}} if how == "message" else delta("sk-secret")
    with pytest.raises(CallFailed) as caught:
        feed(answer, chunk)
    assert "sk-secret" not in caught.value.failure.error.message
    assert "***" in caught.value.failure.error.message


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("eos_token", "stop"), ("model_length", "length"), ("length", "length")],
)
def test_reasons(answer: Answer, theirs: str, ours: str) -> None:
    """Servers have names of their own for the two ways to end."""
    assert feed(answer, delta(content="a"), delta(theirs), b" [DONE]") == "a"
    assert answer.reason == ours
    assert answer.done
    answer.end()


def test_counts(answer: Answer) -> None:
    """Pieces are counted until the upstream tells better."""
    feed(answer, delta(content="a"), delta(content="b"), delta("stop"))
    assert answer.completion_tokens == 2
    details = {"cached_tokens": 3}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": details}
    feed(answer, {"choices": [], "usage": usage})
    assert answer.completion_tokens == 5
    assert answer.counts is not None
    assert (answer.counts.prompt_tokens, answer.counts.cached_tokens) == (9, 3)


def test_whole_without_an_end(answer: Answer) -> None:
    """A whole answer needs its finish_reason too."""
    with pytest.raises(CallFailed):
        answer.whole(msgspec.json.encode({"choices": [{"message": {"content": "a"}}]}))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"content": [{"token": "?", "bytes": [195], "logprob": -1, "top_logprobs": []}]},
            [TokenLogprob(Alternative(-1, b"\xc3", -1.0), [])],
        ),
        (
            {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": None},
            [TokenLogprob(Alternative(-1, b"a", 0.0), [])],
        ),
        ({"content": [{"token": "a"}]}, []),
        ({"content": 5}, []),
        ({"tokens": ["a"], "token_logprobs": ["x"]}, []),
        ({}, []),
    ],
)
def test_logprobs(body: dict[str, Any], expected: list[TokenLogprob]) -> None:
    """Both shapes; what is malformed is no reason to lose the answer."""
    assert logprobs(body) == expected
