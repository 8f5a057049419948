"""Bytes to text that may be sent, against an implementation too simple to be wrong."""

from __future__ import annotations

import codecs
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.engine.text import TextStream

alphabet = st.text("ab. é日😀", max_size=30)
stop_strings = st.lists(st.text("ab. é日😀", min_size=1, max_size=5), max_size=3)
broken = st.binary(max_size=3)


def cut(raw: bytes, at: list[int]) -> list[bytes]:
    """`raw` in pieces, as tokens are."""
    borders = [0, *sorted({border % (len(raw) + 1) for border in at}), len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(borders)]


def visible(raw: bytes) -> str:
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw)


def naive(pieces: list[bytes], stops: list[str]) -> tuple[str, bool]:
    """The whole answer: cut at the first stop string that is there after any piece."""
    raw = b""
    for piece in pieces:
        raw += piece
        if found := [at for stop in stops if (at := visible(raw).find(stop)) >= 0]:
            return visible(raw)[: min(found)], True
    return raw.decode("utf-8", "replace"), False


def could_become(end: str, stops: list[str]) -> bool:
    return any(stop.startswith(end) for stop in stops)


@settings(max_examples=500)
@given(alphabet, broken, alphabet, stop_strings, st.lists(st.integers(0, 200), max_size=30))
def test_any_split_gives_the_naive_text(
    before: str, noise: bytes, after: str, stops: list[str], borders: list[int]
) -> None:
    """Whatever the pieces: the text is that of the whole, and no more is held than must be."""
    pieces = cut(before.encode() + noise + after.encode(), borders)
    stream, sent, raw = TextStream(stops), "", b""
    for piece in pieces:
        raw += piece
        sent += stream.push(piece)
        assert stream.sent == len(sent)
        if stream.stopped:
            break
        text = visible(raw)
        assert text.startswith(sent)
        assert stream.length == len(text)
        held = text[len(sent) :]
        assert not held or could_become(held, stops), "held though it is no stop string"
        assert not any(could_become(text[at:], stops) for at in range(len(sent))), "sent too early"
        assert stream.clear == (raw.decode("utf-8", "replace") == sent)
    sent += stream.finish()
    assert (sent, stream.stopped) == naive(pieces, stops)


@pytest.mark.parametrize("text", ["é", "日", "😀", "👩‍👩‍👧", "नि"])
def test_bytes_one_by_one_give_whole_characters(text: str) -> None:
    """No replacement character ever comes of a character that is only cut."""
    stream = TextStream()
    parts = [stream.push(bytes([byte])) for byte in text.encode()]
    assert "".join(parts) == text
    assert "\ufffd" not in "".join(parts)
    assert stream.clear


def test_half_a_character_is_not_clear() -> None:
    """Bytes that wait for the rest of their character are something that is held back."""
    stream = TextStream()
    assert stream.push("😀".encode()[:2]) == ""
    assert not stream.clear
    assert stream.finish() == "\ufffd"


def test_invalid_bytes_are_replaced_and_lose_nothing_else() -> None:
    """Broken UTF-8 costs its own bytes only."""
    stream = TextStream()
    assert stream.push(b"a\xffb\xc3") + stream.push(b"c") + stream.finish() == "a\ufffdb\ufffdc"


def test_nothing_comes_after_a_stop() -> None:
    """A stopped stream has nothing to finish."""
    stream = TextStream(["b"])
    assert stream.push(b"abc") == "a"
    assert stream.stopped
    assert stream.finish() == ""


def test_empty_stop_strings_stop_nothing() -> None:
    """An empty string is everywhere and ends nothing."""
    stream = TextStream(["", "x"])
    assert stream.push(b"ab") == "ab"
    assert not stream.stopped


def test_stop_that_repeats_itself() -> None:
    """The held part is the longest one that may still become the stop string."""
    stream = TextStream(["aab"])
    assert [stream.push(b"a") for _ in range(4)] == ["", "", "a", "a"]
    assert stream.push(b"b") == ""
    assert stream.stopped
    assert stream.sent == 2


@given(st.text("ab<>\n", max_size=12), st.text("ab<>\n", max_size=12), st.data())
def test_stop_strings_count_up_to_a_mark(before: str, behind: str, data: st.DataObject) -> None:
    """Wherever the text is cut into pieces: what is found when the mark is whole has stopped it,
    and nothing does behind it."""
    mark, stops = "<b>", ["\n", "ab<", ">a"]
    text = before.replace(mark, "") + mark + behind
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    stream, said = TextStream(stops, mark), ""
    for start, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
        if not stream.stopped:
            said += stream.push(text[start:end].encode())
    said += stream.finish()
    counts = text[: text.find(mark) + len(mark)]
    found = [counts.find(stop) for stop in stops if stop in counts]
    assert stream.stopped == bool(found)
    assert said == (text[: min(found)] if found else text)
