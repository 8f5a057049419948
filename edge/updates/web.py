"""A bundle on a web server, read as one stream that goes on where it was cut.

Range requests (RFC 9110, 14.2) with If-Range, so that parts of two files are never put together;
and should a server do it nonetheless, the manifest's digests find it out.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

import httpx

from edge import __version__
from edge.errors import FetchFailed

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries that bring nothing; a try that brings something starts over."""

_SPAN = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_PIECE = 1 << 16

logger = logging.getLogger(__name__)


class WebSource:
    """name: the address without the user and password that may be in it."""

    def __init__(self, url: str) -> None:
        """Raises `FetchFailed` for what is no address."""
        try:
            self.url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise FetchFailed(f"{url}: {error}", hint="give an address with https://") from None
        self.name = str(self.url.copy_with(username="", password="", query=None, fragment=None))
        self._validator = ""

    def open(self, at: int = 0) -> BinaryIO:
        """Raises `FetchFailed`."""
        return io.BufferedReader(_Stream(self, at), _PIECE)

    def keep(self, answer: httpx.Response) -> None:
        """Which state of the file this is."""
        self._validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""

    def condition(self) -> dict[str, str]:
        """For a part of that file; a weak validator may not be asked for (RFC 9110, 13.1.5)."""
        if not self._validator or self._validator.startswith("W/"):
            return {}
        return {"If-Range": self._validator}


class _Stream(io.RawIOBase):
    """at: the place in the file that is read next."""

    def __init__(self, source: WebSource, at: int) -> None:
        super().__init__()
        self._source = source
        self._at = at
        self._held = ExitStack()
        # What a server compresses on the way has no place to go on from.
        headers = {"User-Agent": f"edge-appliance/{__version__}", "Accept-Encoding": "identity"}
        client = httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers=headers)
        self._client = self._held.enter_context(client)
        self._answer: ExitStack | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._rest = b""
        self._pauses = iter(PAUSES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises `FetchFailed`."""
        while not self._rest:
            try:
                if self._answer is None:
                    self._ask()
                piece = next(self._pieces, None)
            except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                hint = "give an address with https://"
                raise FetchFailed(f"{self._source.name}: {error}", hint=hint) from None
            except httpx.TransportError as error:
                self._wait(error)
                continue
            if piece is None:
                return 0
            self._rest = piece
            self._pauses = iter(PAUSES)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        self._at += size
        return size

    def close(self) -> None:
        self._drop()
        self._held.close()
        super().close()

    def _ask(self) -> None:
        headers = {"Range": f"bytes={self._at}-"} | self._source.condition() if self._at else {}
        with ExitStack() as stack:
            request = self._client.stream("GET", self._source.url, headers=headers)
            answer = stack.enter_context(request)
            needless = self._needless(answer)
            self._source.keep(answer)
            self._pieces = _behind(answer.iter_raw(), needless)
            self._answer = stack.pop_all()

    def _needless(self, answer: httpx.Response) -> int:
        """How many bytes come before those that were asked for."""
        if answer.status_code == 200:
            return self._at
        span = _SPAN.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status_code == 206 and span and int(span[1]) == self._at:
            return 0
        if answer.status_code >= 500 or answer.status_code == 429:
            raise httpx.ReadError(f"the server answered {answer.status_code}")
        raise FetchFailed(
            f"the server answered {answer.status_code} for {self._source.name}",
            hint="check the address" if answer.status_code in (404, 410) else "check the server",
        )

    def _wait(self, error: httpx.TransportError) -> None:
        """After a cut: until the next try. Raises `FetchFailed` when there were enough."""
        self._drop()
        pause, said = next(self._pauses, None), str(error) or type(error).__name__
        if pause is None:
            raise FetchFailed(
                f"{self._source.name} was lost: {said}",
                hint="check the network and give the command again: it goes on where it stopped",
            )
        logger.info("%s: %s; trying again in %g s", self._source.name, said, pause)
        time.sleep(pause)

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _behind(pieces: Iterator[bytes], needless: int) -> Iterator[bytes]:
    for piece in pieces:
        if needless >= len(piece):
            needless -= len(piece)
        else:
            yield piece[needless:]
            needless = 0
