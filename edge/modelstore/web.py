"""Fetch a model from a web server by its address and digest.

A download that was cut goes on with a Range request (RFC 9110, 14.2). The part is named for the
digest that the whole has to have, and only the digest decides: a server that has another file by
now, or sends the wrong part of it, is found out.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import httpx

from edge import __version__
from edge.disk import sha256_of
from edge.errors import PullFailed
from edge.modelstore.catalog import UrlSource
from edge.modelstore.workspace import Fetched, Workspace

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries that bring nothing; a try that brings something starts over."""

_SPAN = re.compile(r"bytes (\d+)-\d+/(\d+)")
_CUT_HINT = "check the network and try again: it goes on where it stopped"

logger = logging.getLogger(__name__)


def fetch(source: UrlSource, work: Workspace) -> Fetched:
    """Raises `PullFailed`, and `OSError` when the disk fails."""
    path = work.folder / f"{source.sha256}.part"
    # What a server compresses on the way has no length, and no place to go on from.
    headers = {"User-Agent": f"edge-appliance/{__version__}", "Accept-Encoding": "identity"}
    try:
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers=headers) as client:
            _download(client, source, path, work)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise PullFailed(f"{source}: {error}", hint="give an address with https://") from None
    digest = sha256_of(path)
    if digest != source.sha256:
        path.unlink()
        raise PullFailed(
            f"what was downloaded from {source} has the digest {digest}, not {source.sha256}",
            hint="check the address and --sha256; if both are right, a proxy changed the file",
        )
    return Fetched(path, digest)


def _download(client: httpx.Client, source: UrlSource, path: Path, work: Workspace) -> None:
    """Until the server says that the file is whole."""
    pauses = iter(PAUSES)
    while True:
        before = _size(path)
        try:
            _go_on(client, source, path, work)
            return
        except httpx.UnsupportedProtocol:
            raise
        except httpx.TransportError as error:
            if _size(path) > before:
                pauses = iter(PAUSES)
            pause = next(pauses, None)
            if pause is None:
                said = str(error) or type(error).__name__
                raise PullFailed(f"{source} was lost: {said}", hint=_CUT_HINT) from None
            logger.info("%s: %s; trying again in %g s", source, error, pause)
        time.sleep(pause)


def _go_on(client: httpx.Client, source: UrlSource, path: Path, work: Workspace) -> None:
    have = _size(path)
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", source.url, headers=headers) as answer:
        if answer.status_code == 416:  # no such part: it is whole, or the start of something else
            logger.info("%s has nothing behind byte %d", source, have)
            return
        start, total = _place(source, answer, have)
        work.require(total - start)
        with open(path, "r+b" if have else "wb") as file:
            file.seek(start)
            file.truncate()
            done = start
            for piece in answer.iter_raw():
                file.write(piece)
                done += len(piece)
                work.progress(min(done, total), total)
                work.received(len(piece))


def _place(source: UrlSource, answer: httpx.Response, have: int) -> tuple[int, int]:
    """Where in the file the answer begins, and how long the file is."""
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 200 and length.isdecimal():
        return 0, int(length)
    span = _SPAN.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and span and int(span[1]) == have:
        return have, int(span[2])
    if answer.status_code in (200, 206):
        raise PullFailed(
            f"the server does not say how long {source} is, or which part it sends",
            hint="fetch the file with another program, then: edge models import PATH",
        )
    if answer.status_code >= 500 or answer.status_code == 429:
        raise httpx.ReadError(f"the server answered {answer.status_code}")
    hint = "check the address" if answer.status_code in (404, 410) else "check the rights to read"
    raise PullFailed(f"the server answered {answer.status_code} for {source}", hint=hint)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
