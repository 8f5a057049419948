"""Content codings of bodies: gzip and deflate, within bounds, for those who ask for them."""

from __future__ import annotations

import zlib

from edge.errors import InvalidRequest, PayloadTooLarge

WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's number for each; `deflate` is zlib's format (RFC 9110, section 8.4.1.2)."""

LEVEL = 1
"""Numbers hardly get any smaller at higher ones, and take several times as long."""


def decoded(raw: bytes, coding: str, limit: int) -> bytes:
    """A body as it was before its coding.

    Raises `PayloadTooLarge` above `limit` bytes, with no more than those made, and
    `InvalidRequest` for another coding or what is not of it.
    """
    if coding in ("", "identity"):
        return raw
    if coding not in WINDOW:
        raise InvalidRequest(
            f"no Content-Encoding `{coding}` here", hint="use gzip, deflate or none"
        )
    stream = zlib.decompressobj(WINDOW[coding])
    try:
        body = stream.decompress(raw, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {coding}: {error}") from None
    if len(body) > limit:
        raise PayloadTooLarge(
            f"the body is larger than {limit} bytes without its {coding} (limits.max_body_mb)"
        )
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(f"the body is not one whole {coding}")
    return body


def encoded(body: bytes, coding: str) -> bytes:
    stream = zlib.compressobj(LEVEL, wbits=WINDOW[coding])
    return stream.compress(body) + stream.flush()


def wanted(accepted: str) -> str | None:
    """The coding for an answer to a request with that `Accept-Encoding`, None for none.

    Who names one coding wants it. Libraries name all that they know by themselves: they take an
    answer without any as well, which costs no time.
    """
    name = accepted.strip().lower()
    return name if name in WINDOW else None
