"""A file that comes as multipart/form-data, written to a draft piece by piece.

Bounded in size, in time and in the number and length of the fields beside the file.
"""

from __future__ import annotations

import asyncio

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from edge.api.http.body import MOST_DISCARDED
from edge.errors import EdgeError, InvalidRequest, PayloadTooLarge, RequestTimeout
from edge.store.contents import Draft
from edge.store.files import Files

SECONDS = 600.0
"""Time for all of it to arrive."""

MOST_FIELDS = 16
LONGEST_FIELD = 4096

FRAMING_BYTES = MOST_FIELDS * (LONGEST_FIELD + 8192)
"""What a body may have beside the file."""

_ROOM_STEP = 4 << 20


class Form:
    """Takes the chunks of a body. `fields` are those beside the file, `filename` is the file's.

    `feed` returns the next bytes of the file. Raises `InvalidRequest`.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest("the file has to come as multipart/form-data", param="file")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.complete = False
        self._parts = 0
        self._header, self._value = b"", b""
        self._disposition = b""
        self._field: str | None = None
        self._text = b""
        self._pieces: list[bytes] = []
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"the boundary cannot be used: {error}") from None

    def feed(self, chunk: bytes) -> bytes:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"the body is not multipart/form-data: {error}") from None
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_FIELDS:
            raise InvalidRequest(f"a form has at most {MOST_FIELDS} fields")
        self._disposition, self._text, self._field = b"", b"", None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bound_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound_header()

    def _bound_header(self) -> None:
        if len(self._header) + len(self._value) > LONGEST_FIELD:
            raise InvalidRequest("a header in the form is too long")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != "file":
            self._field = name
        elif self.filename is not None:
            raise InvalidRequest("one file at a time", param="file")
        else:
            given = options.get(b"filename", b"").decode("utf-8", "replace")
            self.filename = given[:255] or "file"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._pieces.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > LONGEST_FIELD:
            raise InvalidRequest(f"`{self._field}` is too long", param=self._field)

    def _part_end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.complete = True


async def receive(http: Request, files: Files, draft: Draft, limit: int) -> Form:
    """Write the file of a form to the draft; the form has the rest of it.

    Raises `InvalidRequest`, `PayloadTooLarge` above `limit` bytes, `RequestTimeout`, `QueueFull`.
    """
    try:
        return await asyncio.wait_for(_receive(http, files, draft, limit), SECONDS)
    except asyncio.TimeoutError:
        raise RequestTimeout(f"the file did not arrive within {SECONDS:.0f} s") from None


async def _receive(http: Request, files: Files, draft: Draft, limit: int) -> Form:
    form = Form(http.headers.get("content-type", ""))
    declared = http.headers.get("content-length", "")
    refusal: EdgeError | None = None
    if declared.isdecimal() and int(declared) > limit + FRAMING_BYTES:
        refusal = _too_large(limit)
        if http.headers.get("expect", "").lower() == "100-continue":
            raise refusal
    await files.room(1)
    discarded, look_again = 0, _ROOM_STEP
    async for chunk in http.stream():
        if refusal is not None:
            # Read on, so that the client is still sending when the refusal reaches it.
            discarded += len(chunk)
            if discarded > MOST_DISCARDED:
                break
            continue
        try:
            data = form.feed(chunk)
            if draft.size + len(data) > limit:
                raise _too_large(limit)
            if draft.size + len(data) > look_again:
                look_again = draft.size + len(data) + _ROOM_STEP
                await files.room(len(data))
            await draft.write(data)
        except EdgeError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    if not form.complete:
        raise InvalidRequest("the form ended in the middle")
    if form.filename is None:
        raise InvalidRequest("there is no file in the form", param="file")
    await files.room(0)
    return form


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the file is larger than {limit} bytes (queue.max_file_mb)", param="file"
    )
