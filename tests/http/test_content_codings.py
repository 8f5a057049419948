"""Bodies that are compressed: within bounds, whole, and as Python's own libraries make them."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.api.http.encoding import decoded, encoded, wanted
from edge.errors import InvalidRequest, PayloadTooLarge

MAKERS = {"gzip": gzip.compress, "deflate": zlib.compress}
READERS = {"gzip": gzip.decompress, "deflate": zlib.decompress}
CODINGS = st.sampled_from(sorted(MAKERS))


@given(st.binary(), CODINGS)
def test_both_ways(body: bytes, coding: str) -> None:
    """What others have compressed is read, and others read what is compressed here."""
    assert decoded(MAKERS[coding](body), coding, len(body)) == body
    assert READERS[coding](encoded(body, coding)) == body
    assert decoded(body, "", 0) == decoded(body, "identity", 0) == body


@pytest.mark.parametrize("coding", sorted(MAKERS))
def test_a_bomb_is_no_larger_than_the_limit(coding: str) -> None:
    """64 megabytes in a few kilobytes: refused as soon as more than the limit has come out."""
    layer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    zeros = bytes(1 << 20)
    bomb = b"".join(layer.compress(zeros) for _ in range(64)) + layer.flush()
    assert len(bomb) < 1 << 18
    with pytest.raises(PayloadTooLarge):
        decoded(bomb, coding, 1000)
    assert decoded(MAKERS[coding](bytes(1000)), coding, 1000) == bytes(1000)


@given(st.binary(min_size=1), CODINGS, st.data())
def test_what_is_cut_or_goes_on(body: bytes, coding: str, data: st.DataObject) -> None:
    """Half of a body is none, and neither is one with something behind it."""
    whole = MAKERS[coding](body)
    end = data.draw(st.integers(0, len(whole) - 1))
    for broken in (whole[:end], whole + b"x", body + b"x"):
        with pytest.raises(InvalidRequest):
            decoded(broken, coding, 1 << 20)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip,deflate", "x" * 99])
def test_other_codings_are_refused_by_name(coding: str) -> None:
    with pytest.raises(InvalidRequest, match=coding):
        decoded(b"", coding, 1)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        (" Deflate ", "deflate"),
        ("", None),
        ("br", None),
        ("identity", None),
        ("gzip, deflate", None),
        ("gzip, deflate, br, zstd", None),
        ("gzip;q=0", None),
    ],
)
def test_who_wants_it(accepted: str, coding: str | None) -> None:
    """Those who name one coding; lists are what libraries send by themselves."""
    assert wanted(accepted) == coding
