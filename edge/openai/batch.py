"""OpenAI's batches and files: the bodies, the objects, and the lines of their files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.openai.ask import Kind
from edge.openai.schema import Body

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]

KINDS: dict[str, Kind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/responses": "response",
}
"""Of those that ask for a text, by endpoint."""

EMBEDDINGS = "/v1/embeddings"

MOST_LINES = 50_000
MOST_ERRORS = 100
"""Errors of one input file that are reported; it is not read further then."""

LONGEST_ID = 256

Note = Annotated[str, Meta(max_length=512)]
NoteName = Annotated[str, Meta(max_length=64)]


class ExpiresAfter(Body, kw_only=True):
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]
    anchor: Literal["created_at"]


class BatchBody(Body, kw_only=True):
    """POST /v1/batches"""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[NoteName, Note], Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(msgspec.Struct):
    """Something wrong with the input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Errors(msgspec.Struct):
    data: list[BatchError]
    object: str = "list"


class RequestCounts(msgspec.Struct):
    total: int
    completed: int
    failed: int


class BatchObject(msgspec.Struct, kw_only=True):
    """A batch as callers see it. Fields that are null are sent, as OpenAI does."""

    id: str
    object: str = "batch"
    endpoint: str
    errors: Errors | None
    input_file_id: str
    completion_window: str = "24h"
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class FileObject(msgspec.Struct):
    """A file as callers see it."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"


class Envelope(msgspec.Struct):
    """A line of an input file; what the body asks for is looked at when its turn comes."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
    method: str
    url: str
    body: msgspec.Raw


class Answered(msgspec.Struct):
    """An HTTP answer in a line of an output file."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class OutputLine(msgspec.Struct):
    """`response` or `error`: the latter where the request was not carried out."""

    id: str
    custom_id: str
    response: Answered | None
    error: dict[str, Any] | None


class Scan:
    """Looks through the lines of an input file: counts the requests, notes what is wrong."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.total = 0
        self.errors: list[BatchError] = []
        self._seen: set[str] = set()

    @property
    def over(self) -> bool:
        """Reading on would be of no use."""
        return len(self.errors) >= MOST_ERRORS or any(
            error.code == "too_many_lines" for error in self.errors
        )

    def look(self, number: int, text: bytes | None) -> None:
        """At line `number`; its text is None where it is too long."""
        if text == b"":
            return
        if number > MOST_LINES:
            self._wrong(number, "too_many_lines", f"a batch has at most {MOST_LINES} lines")
            return
        if text is None:
            self._wrong(number, "line_too_long", "the line is larger than limits.max_body_mb")
            return
        self.total += 1
        try:
            line = msgspec.json.decode(text, type=Envelope)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$.")
            missing = message.rpartition("field `")[2].rstrip("`") if "missing" in message else ""
            param = path.rstrip("`") or missing or None
            code = "missing_required_parameter" if missing else "invalid_parameter"
            self._wrong(number, code, message, param)
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._wrong(number, "invalid_json_line", f"the line is not valid JSON: {error}")
            return
        if line.custom_id in self._seen:
            message = f"custom_id {line.custom_id!r} is in another line too"
            self._wrong(number, "duplicate_custom_id", message, "custom_id")
        self._seen.add(line.custom_id)
        if line.method != "POST":
            self._wrong(number, "invalid_method", "the method has to be POST", "method")
        if line.url != self.endpoint:
            message = f"the url has to be the batch's endpoint {self.endpoint}"
            self._wrong(number, "invalid_url", message, "url")
        if not bytes(line.body).lstrip().startswith(b"{"):
            self._wrong(number, "invalid_parameter", "the body has to be an object", "body")

    def finish(self) -> None:
        """The end of the file."""
        if not self.total and not self.errors:
            self.errors.append(BatchError("empty_file", "the file has no requests"))

    def _wrong(self, line: int, code: str, message: str, param: str | None = None) -> None:
        self.errors.append(BatchError(code, message, line, param))
