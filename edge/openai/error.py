"""An error as callers see it, whatever door they came in by: OpenAI's shape."""

from __future__ import annotations

import msgspec

from edge.errors import EdgeError, InvalidRequest


class ErrorBody(msgspec.Struct):
    """The object `error` of an answer."""

    message: str
    type: str
    param: str | None
    code: str


def error_body(error: EdgeError) -> ErrorBody:
    """OpenAI has one type for all that is the caller's fault; else it is the code."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    kind = InvalidRequest.code if error.callers_fault else error.code
    return ErrorBody(message, kind, error.param, error.code)
