"""The kinds of requests, each with its body, its `Request` to the service and its answer's shape.

A durable request is kept as the JSON of its body: `encode` and `decode` bring it there and back.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edge.openai import parse
from edge.openai.schema import ChatBody, CompletionBody, EdgeOptions, ResponseBody
from edge.openai.shape import Chat, Completion, Shape
from edge.types import Request

Kind = Literal["chat", "completion", "response"]
Body = ChatBody | CompletionBody | ResponseBody

BODIES: dict[str, type[Any]] = {
    "chat": ChatBody,
    "completion": CompletionBody,
    "response": ResponseBody,
}


def decode(kind: str, raw: bytes) -> Body:
    """The body of a request of that `Kind`.

    Raises `InvalidRequest` for what is not JSON or not what the fields allow.
    """
    body: Body = parse.decode(raw, BODIES[kind])
    return body


def encode(body: Body) -> bytes:
    return msgspec.json.encode(body)


def kind_of(body: Body) -> Kind:
    if isinstance(body, ChatBody):
        return "chat"
    return "completion" if isinstance(body, CompletionBody) else "response"


def ask(body: Body, request_id: str) -> tuple[Request, Shape]:
    """What to ask of the service, and how its answer will look.

    A Response's answer looks like a chat's until `response.py` has made one of it.
    Raises `InvalidRequest`.
    """
    if isinstance(body, CompletionBody):
        request = parse.completion_request(body, request_id)
        return request, Completion(request)
    if isinstance(body, ResponseBody):
        request = parse.response_request(body, request_id)
    else:
        request = parse.chat_request(body, request_id)
    return request, Chat(request)


def options(body: Body) -> EdgeOptions:
    return body.edge or EdgeOptions()
