"""Where an answer goes, and how it looks there. Pure.

A reply is made of what the ledger holds and of nothing else, so that one that has to be sent
again is the same to the byte.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.errors import (
    EdgeError,
    IdempotencyKeyReused,
    InvalidRequest,
    JobNotFound,
    ModelNotFound,
    PayloadTooLarge,
    from_code,
)
from edge.openai import render
from edge.store.job import State

CALLERS_FAULT = (
    InvalidRequest,
    ModelNotFound,
    JobNotFound,
    PayloadTooLarge,
    IdempotencyKeyReused,
)


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job's delivery target: the topic, the caller's id, and its Correlation Data."""

    topic: str
    id: str | int
    correlation: bytes | None = None


def encode_target(target: Target) -> bytes:
    return msgspec.msgpack.encode(target)


def decode_target(raw: bytes) -> Target:
    return msgspec.msgpack.decode(raw, type=Target)


def outcome(
    target: Target, state: State, result: bytes | None, code: str | None, message: str | None
) -> bytes:
    """The final reply to a job that has ended in `state`."""
    if state == "done" and result is not None:
        return _done(target, result)
    error = from_code(code or state, message or f"the request was {state}")
    body = _error(error) | {"code": code or state}
    if code is None:
        body["type"] = state
    return render.encode({"id": target.id, "status": state, "error": body})


def refusal(prompt_id: str | int, error: EdgeError) -> bytes:
    """The final reply to a message that did not become a job."""
    return render.encode({"id": prompt_id, "status": "failed", "error": _error(error)})


def delta(prompt_id: str | int, index: int, text: str) -> bytes:
    return render.encode({"id": prompt_id, "index": index, "text": text})


def queued(prompt_id: str | int, position: int) -> bytes:
    return render.encode({"id": prompt_id, "status": "queued", "position": position})


def _done(target: Target, result: bytes) -> bytes:
    # Raw values pass through as they are.
    answer = msgspec.json.decode(result, type=dict[str, msgspec.Raw])
    response_id = answer.pop("id")
    head = {"id": target.id, "status": "done", "route": "local", "response_id": response_id}
    return render.encode({**head, **answer})


def _error(error: EdgeError) -> dict[str, Any]:
    """OpenAI's shape, as the HTTP door has it."""
    return {
        "message": f"{error.message} ({error.hint})" if error.hint else error.message,
        "type": InvalidRequest.code if isinstance(error, CALLERS_FAULT) else error.code,
        "param": error.param,
        "code": error.code,
    }
