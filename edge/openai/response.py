"""The Response object of OpenAI's /v1/responses, for an answer that is there or is to come.

Every durable request can be asked for as a Response, whatever it was made as: a chat's choices
and a completion's become messages of its output.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edge.openai import ask
from edge.openai.render import Answer, Origin
from edge.openai.schema import FlatToolBody, ResponseBody

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

PREFIX = "resp_"
"""Of a Response's id; the rest is the id of the job, or of the live request."""


class InputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Response(msgspec.Struct, kw_only=True):
    """What callers see. Fields that are null are sent: OpenAI's SDK expects them."""

    id: str
    created_at: int
    status: Status
    model: str
    background: bool
    output: list[dict[str, Any]] = []
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None = None
    usage: ResponseUsage | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: dict[str, str] = {}
    user: str | None = None
    object: Literal["response"] = "response"
    previous_response_id: None = None
    parallel_tool_calls: bool = True
    tool_choice: Any = "none"
    tools: list[Any] = []
    text: dict[str, Any] = msgspec.field(default_factory=lambda: {"format": {"type": "text"}})
    truncation: str = "disabled"
    store: bool = False
    # Not of OpenAI's API: the whole answer, where it is no text.
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    # Nor this: where the answer came from, and what it took.
    edge: Origin | msgspec.UnsetType = msgspec.UNSET

    def finish(self, answer: Answer) -> None:
        """Fill in what a whole answer says."""
        cut = any(choice["finish_reason"] == "length" for choice in answer.choices)
        self.status = "incomplete" if cut else "completed"
        self.incomplete_details = {"reason": "max_output_tokens"} if cut else None
        self.model = answer.model
        self.output = [item for choice in answer.choices for item in output_items(self.id, choice)]
        self.edge = answer.edge
        usage = answer.usage
        if usage:
            self.usage = ResponseUsage(
                usage.prompt_tokens,
                InputDetails(usage.prompt_tokens_details.cached_tokens),
                usage.completion_tokens,
                OutputDetails(),
                usage.total_tokens,
            )


def new_response(number: str, created: float, model: str, body: object) -> Response:
    """A Response that is queued; what can be told of the request comes from its body, if that
    was one for /v1/responses."""
    response = Response(
        id=PREFIX + number,
        created_at=int(created),
        status="queued",
        model=model,
        background=True,
        store=True,
    )
    if isinstance(body, ResponseBody):
        response.background = response.store = bool(body.background)
        response.instructions = body.instructions
        response.max_output_tokens = body.max_output_tokens
        response.temperature = body.temperature
        response.top_p = body.top_p
        response.metadata = body.metadata or {}
        response.user = body.user
        if body.tools:
            response.tools = [_tool(tool) for tool in body.tools]
            response.tool_choice = msgspec.to_builtins(body.tool_choice or "auto")
            response.parallel_tool_calls = body.parallel_tool_calls is not False
        if body.text and body.text.format:
            response.text = {"format": msgspec.to_builtins(body.text.format)}
    return response


def kept_response(
    number: str,
    created: float,
    kind: str,
    request: bytes,
    default_model: str,
    result: bytes | None,
) -> Response:
    """Of a request as the ledger keeps it, with its answer if there is one."""
    body = ask.decode(kind, request)
    response = new_response(number, created, body.model or default_model, body)
    if result is not None:
        response.finish(msgspec.json.decode(result, type=Answer))
    return response


def other_response(number: str, created: float, model: str, result: bytes | None) -> Response:
    """Of a kept request whose answer is no chat's: it is told as it is, and its text if it has
    one. model: that was asked."""
    response = new_response(number, created, model, None)
    if result is not None:
        response.status = "completed"
        response.result = msgspec.Raw(result)
        text = msgspec.json.decode(result, type=_Texted).text
        if text is not None:
            part = [text_part(text)]
            response.output = [message_item(response.id, 0, "completed", part)]
    return response


class _Texted(msgspec.Struct):
    text: str | None = None


def output_items(response_id: str, choice: dict[str, Any]) -> list[dict[str, Any]]:
    """A choice of a chat or of a completion as items of a Response's output: what it says, and
    what it calls. Only the last can have been cut."""
    message = choice.get("message") or {"content": choice.get("text")}
    calls, text = message.get("tool_calls") or [], message["content"]
    status = "incomplete" if choice["finish_reason"] == "length" else "completed"
    items = []
    if text or not calls:
        state = "completed" if calls else status
        items.append(message_item(response_id, choice["index"], state, [text_part(text)]))
    for at, call in enumerate(calls):
        function = call["function"]
        state = status if at + 1 == len(calls) else "completed"
        items.append(call_item(call["id"], function["name"], function["arguments"], state))
    return items


def message_item(
    response_id: str, index: int, status: str, content: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": f"msg_{response_id.removeprefix(PREFIX)}_{index}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def call_item(call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{call_id.removeprefix('call_')}",
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _tool(tool: FlatToolBody) -> dict[str, Any]:
    """As OpenAI's SDK expects it: with all fields."""
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
