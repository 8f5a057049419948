"""An upload as it comes in pieces: what reaches the disk, what is refused, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from edge.api.http import upload
from edge.api.http.upload import Form, receive
from edge.errors import InvalidRequest, PayloadTooLarge, QueueFull, RequestTimeout
from edge.store.database import Database
from edge.store.files import Files
from edge.store.schema import MIGRATIONS

KIND = "multipart/form-data; boundary=x"
MB = 1 << 20


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    async with Database(tmp_path / "jobs.sqlite", MIGRATIONS) as database:
        opened = Files(database, tmp_path / "files", max_bytes=20 * MB, ttl=60)
        await opened.open()
        yield opened


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(content: bytes) -> bytes:
    return part("purpose", b"batch") + part("file", content, "in.jsonl") + b"--x--\r\n"


def request(chunks: Iterator[bytes | None], leaves: bool = False, **headers: str) -> Request:
    """With a body in these chunks; at a None nothing more comes. `leaves`: before its end."""
    named = [(b"content-type", KIND.encode())]
    named += [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]

    async def next_message() -> Message:
        for chunk in chunks:
            if chunk is None:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": chunk, "more_body": True}
        if leaves:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": named}, next_message)


def whole(body: bytes, size: int) -> Iterator[bytes | None]:
    yield from (body[at : at + size] for at in range(0, len(body), size))


def left(files: Files) -> list[str]:
    return [path.name for path in files.path("x").parent.iterdir()]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_any_pieces(size: int) -> None:
    """The file comes out as it went in, wherever the chunks are cut."""
    content = b"\r\n--x\r\r\n--\r\n" * 40 + b"\r\n--y--\r\n\x00\xff"
    parser, found = Form(KIND), b""
    for chunk in whole(form(content), size):
        assert chunk is not None
        found += parser.feed(chunk)
    assert found == content
    assert (parser.complete, parser.filename) == (True, "in.jsonl")
    assert parser.fields == {"purpose": "batch"}


async def test_pieces_reach_the_disk_while_they_come(files: Files) -> None:
    """A large file is never in memory as a whole."""
    body = form(b"y" * (5 * MB))

    def chunks() -> Iterator[bytes | None]:
        for at, chunk in enumerate(whole(body, MB)):
            if at == 4:
                (draft,) = files.path("x").parent.iterdir()
                assert draft.stat().st_size >= 2 * MB
            yield chunk

    async with files.draft() as draft:
        found = await receive(request(chunks()), files, draft, 10 * MB)
        assert (found.filename, found.fields) == ("in.jsonl", {"purpose": "batch"})
        assert draft.size == 5 * MB


async def test_a_client_that_is_slow(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a time for all of it, however often it sends something; nothing is left."""
    monkeypatch.setattr(upload, "SECONDS", 0.05)
    async with files.draft() as draft:
        with pytest.raises(RequestTimeout):
            await receive(request(iter([form(b"y")[:100], None])), files, draft, MB)
    assert left(files) == []


async def test_a_client_that_leaves(files: Files) -> None:
    """In the middle of its file: nothing is left."""
    half = iter([form(b"y" * 3 * MB)[: 2 * MB]])
    async with files.draft() as draft:
        with pytest.raises(ClientDisconnect):
            await receive(request(half, leaves=True), files, draft, 10 * MB)
    assert left(files) == []


async def test_too_large_before_it_comes(files: Files) -> None:
    """A client that waits for permission is refused without its file."""
    headers = {"content_length": str(30 * MB), "expect": "100-continue"}
    async with files.draft() as draft:
        with pytest.raises(PayloadTooLarge):
            await receive(request(iter([None]), **headers), files, draft, MB)


async def test_uploads_at_the_same_time_share_the_room(files: Files) -> None:
    """Each alone would fit; together they are refused while they come, not when they are there."""
    body = form(b"y" * 15 * MB)

    async def one() -> None:
        async with files.draft() as draft:
            await receive(request(whole(body, MB)), files, draft, 16 * MB)

    outcomes = await asyncio.gather(one(), one(), return_exceptions=True)
    assert any(isinstance(outcome, QueueFull) for outcome in outcomes)
    assert left(files) == []


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", f"{KIND}{'y' * 300}"])
def test_other_kinds_of_body(kind: str) -> None:
    """Refused before anything is read."""
    with pytest.raises(InvalidRequest):
        Form(kind)
