"""Where an answer goes, and how it looks there. Pure.

A reply is made of what the ledger holds and of nothing else, so that one that has to be sent
again is the same to the byte.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.errors import EdgeError, from_code
from edge.openai import render
from edge.openai.error import error_body
from edge.openai.render import Origin
from edge.openai.shape import call_piece
from edge.store.job import State
from edge.types import Finished, Part


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
    error = error_body(from_code(code or state, message or f"the request was {state}"))
    error.code = code or state
    if code is None:
        error.type = state
    return render.encode({"id": target.id, "status": state, "error": error})


def refusal(prompt_id: str | int, error: EdgeError) -> bytes:
    """The final reply to a message that did not become a job."""
    return render.encode({"id": prompt_id, "status": "failed", "error": error_body(error)})


def delta(prompt_id: str | int, part: Part) -> bytes | None:
    """A piece of an answer; None where it brings nothing that is told. Calls look as in a stream
    over HTTP."""
    event = part.event
    if isinstance(event, Finished) or not (event.text or event.calls):
        return None
    body: dict[str, Any] = {"id": prompt_id, "index": part.index, "text": event.text}
    if event.calls:
        body["tool_calls"] = [call_piece(piece) for piece in event.calls]
    return render.encode(body)


def queued(prompt_id: str | int, position: int) -> bytes:
    return render.encode({"id": prompt_id, "status": "queued", "position": position})


def loading(prompt_id: str | int, model: str) -> bytes:
    return render.encode({"id": prompt_id, "status": "loading", "model": model})


def _done(target: Target, result: bytes) -> bytes:
    # Raw values pass through as they are.
    answer = msgspec.json.decode(result, type=dict[str, msgspec.Raw])
    route = msgspec.json.decode(answer["edge"], type=Origin).route
    head: dict[str, Any] = {"id": target.id, "status": "done", "route": route}
    if (response_id := answer.pop("id", None)) is not None:
        head["response_id"] = response_id
    return render.encode({**head, **answer})
