"""Errors as HTTP callers see them: OpenAI's shape, that of KServe's protocol below /v2, and the
contract's status codes."""

from __future__ import annotations

import math

import msgspec
from starlette.responses import Response

from edge.errors import EdgeError
from edge.kserve.render import error_json as kserve_error
from edge.openai.error import error_body

STATUS = {
    "invalid_request_error": 400,
    "unsupported_parameter": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "model_not_found": 404,
    "key_not_found": 404,
    "job_not_found": 404,
    "file_not_found": 404,
    "batch_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "deadline_exceeded": 408,
    "request_timeout": 408,
    "idempotency_key_in_use": 409,
    "file_in_use": 409,
    "key_exists": 409,
    "switch_running": 409,
    "not_switchable": 409,
    "payload_too_large": 413,
    "idempotency_key_reused": 422,
    "unprocessable_request": 422,
    "rate_limit_exceeded": 429,
    "upstream_error": 502,
    "overloaded": 503,
    "loading": 503,
    "model_load_failed": 503,
    "bad_model_file": 503,
    "out_of_memory": 503,
    "no_route": 503,
    "store_broken": 503,
    "upstream_timeout": 504,
    "queue_full": 507,
}
"""By error code; all others are 500."""


def status_of(error: EdgeError) -> int:
    return STATUS.get(error.code, 500)


def error_json(error: EdgeError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`"""
    return msgspec.json.encode({"error": error_body(error)})


def refusal(error: EdgeError) -> tuple[int, bytes]:
    """Status and body, for answers that are written down."""
    return status_of(error), error_json(error)


def error_headers(error: EdgeError) -> dict[str, str]:
    """`Retry-After` in whole seconds, at least 1, where the same request may succeed later."""
    if status_of(error) not in (409, 429, 503, 507):
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after or 1)))}


def error_response(error: EdgeError, path: str) -> Response:
    """In the shape of the API that the path belongs to."""
    tensors = path == "/v2" or path.startswith("/v2/")
    return Response(
        kserve_error(error) if tensors else error_json(error),
        status_code=status_of(error),
        headers=error_headers(error),
        media_type="application/json",
    )
