"""Server-sent events, however they are cut up on their way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cloud.sse import LONGEST_LINE, EventParser, TooLong

STREAM = (
    "\ufeffdata: first\n\n"
    ": a comment\n\n"
    "event: message\r\ndata:second\r\nid: 7\r\n\r\n"
    "data: thi\ndata: rd: ü\n\n"
    "retry: 5\n\n"
    "data\n\n"
    "data:  kept blank\n\n"
).encode()
EVENTS = [b"first", b"second", "thi\nrd: ü".encode(), b"", b" kept blank"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_pieces(cuts: list[int]) -> None:
    """The same events come out wherever the bytes were split."""
    parser, found, begin = EventParser(), [], 0
    for end in [*sorted(cuts), len(STREAM)]:
        found += parser.feed(STREAM[begin:end])
        begin = end
    assert found == EVENTS
    assert parser.end() == []


@given(st.binary(max_size=300), st.integers(1, 20))
def test_any_bytes(junk: bytes, size: int) -> None:
    """Nonsense yields something or nothing, and the same whatever its pieces."""
    whole, pieces, found = EventParser(), EventParser(), []
    for begin in range(0, len(junk), size):
        found += pieces.feed(junk[begin : begin + size])
    assert found + pieces.end() == whole.feed(junk) + whole.end()


def test_missing_blank_line() -> None:
    """A last event without its blank line counts."""
    parser = EventParser()
    assert parser.feed(b"data: [DONE]") == []
    assert parser.end() == [b"[DONE]"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_endless_line(end: bytes) -> None:
    """A line has a bound, whether it ends or not."""
    parser = EventParser()
    parser.feed(b"data: " + b"x" * (LONGEST_LINE - 10))
    with pytest.raises(TooLong):
        parser.feed(b"x" * 20 + end)


def test_endless_event() -> None:
    """So has an event of many lines."""
    parser = EventParser()
    with pytest.raises(TooLong):
        parser.feed((b"data: " + b"x" * (LONGEST_LINE // 2) + b"\n") * 10)
