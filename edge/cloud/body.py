"""What is sent: a request in the words of OpenAI's API. Pure.

Only fields that the caller set are sent, because servers refuse those that they do not know.
https://platform.openai.com/docs/api-reference/chat/create; the names of the samplers that are not
OpenAI's are those of llama-server and vLLM.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.config import answering
from edge.errors import NoRoute
from edge.types import (
    ChatPrompt,
    Grammar,
    Message,
    Prompt,
    Request,
    Sampling,
    TextPrompt,
    Tool,
    Tools,
)


class Order(msgspec.Struct):
    """One call to make: for answer number `index`, `body` to `path` below the base URL.

    id: of the answer, for its pieces. tools: names of those that it may call.
    """

    id: str
    index: int
    path: str
    body: bytes
    headers: dict[str, str]
    tools: frozenset[str] = frozenset()


def orders(request: Request, name: str, settings: answering.Upstream) -> list[Order]:
    """One call for each answer: many upstreams do not know `n`.

    Raises `NoRoute` for what the upstream `name` cannot be asked.
    """
    if request.sampling.logit_bias:
        raise NoRoute(
            f"`logit_bias` names tokens of another model than upstream `{name}` has",
            param="logit_bias",
        )
    grammar = request.grammar
    if grammar is not None and grammar.kind not in ("json_object", "json_schema"):
        raise NoRoute(
            f"`response_format` {grammar.kind} is not known to upstream `{name}`",
            param="response_format",
        )
    fields = {"model": settings.model or name, **_common(request), **_streamed(settings)}
    return [_order(request, index, name, settings, fields) for index in range(request.answers)]


def _order(
    request: Request, index: int, name: str, settings: answering.Upstream, fields: dict[str, Any]
) -> Order:
    path, prompt = _prompt(request.prompts[index // request.n], name, settings)
    body = {**fields, **prompt, **_logprobs(request.logprobs, chat="messages" in prompt)}
    if request.sampling.seed is not None:
        body["seed"] = request.sampling.seed + index
    headers = {"Content-Type": "application/json", "X-Request-Id": request.id}
    if request.kept:
        # Always the same for the same call, so that one asked twice is answered (and paid) once.
        headers["Idempotency-Key"] = f"{request.id}-{index}"
    tools = frozenset(tool.name for tool in request.tools.callable) if request.tools else ()
    raw = msgspec.json.encode(body)
    return Order(f"{request.id}.{index}", index, path, raw, headers, frozenset(tools))


def _prompt(prompt: Prompt, name: str, settings: answering.Upstream) -> tuple[str, dict[str, Any]]:
    if isinstance(prompt, TextPrompt):
        return "/completions", {"prompt": prompt.text}
    if isinstance(prompt, ChatPrompt):
        chat = _chat(prompt.messages, name, settings)
        return "/chat/completions", {**chat, **_tools(prompt.tools)}
    raise NoRoute(
        f"a prompt of token ids means nothing to upstream `{name}`, whose tokens are others",
        param="prompt",
    )


def _chat(messages: list[Message], name: str, settings: answering.Upstream) -> dict[str, Any]:
    listed = [_message(message) for message in messages]
    if not messages or messages[-1].role != "assistant":
        return {"messages": listed}
    if settings.continuation == "none":
        raise NoRoute(
            f"upstream `{name}` cannot go on with an answer (its `continuation` is none)",
            param="messages",
        )
    if settings.continuation == "prefix":
        listed[-1]["prefix"] = True
    if settings.continuation == "continue_final_message":
        return {
            "messages": listed,
            "continue_final_message": True,
            "add_generation_prompt": False,
        }
    return {"messages": listed}


def _message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(message)
    if message.tool_calls:
        fields["content"] = message.content or None
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    elif message.role == "tool":  # the name is for templates; OpenAI's API has none here
        fields.pop("name", None)
    return fields


def _tools(tools: Tools | None) -> dict[str, Any]:
    if tools is None:
        return {}
    # Those that are allowed are all that is offered: few servers know `allowed_tools`.
    offered = tools.offered if tools.choice in ("none", "named") else tools.callable
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in offered]}
    if tools.choice == "named":
        fields["tool_choice"] = {"type": "function", "function": {"name": tools.allowed[0]}}
    elif tools.choice != "auto":
        fields["tool_choice"] = tools.choice
    if not tools.parallel:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = msgspec.Raw(tool.parameters.encode())
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _common(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.max_tokens is not None:
        fields["max_tokens"] = request.max_tokens
    if request.stop:
        fields["stop"] = request.stop
    if request.ignore_eos:
        fields["ignore_eos"] = True
    if request.grammar is not None:
        fields["response_format"] = _format(request.grammar)
    default = Sampling()
    for field in (
        *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
        *("top_k", "min_p", "repeat_penalty"),
    ):
        value = getattr(request.sampling, field)
        if value != getattr(default, field):
            fields[field] = value
    return fields


def _format(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind == "json_object":
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": grammar.name, "schema": msgspec.Raw(grammar.text.encode())}
    if grammar.strict is not None:
        schema["strict"] = grammar.strict
    if grammar.description is not None:
        schema["description"] = grammar.description
    return {"type": "json_schema", "json_schema": schema}


def _streamed(settings: answering.Upstream) -> dict[str, Any]:
    if not settings.stream:
        return {}
    return {"stream": True, "stream_options": {"include_usage": True}}


def _logprobs(count: int | None, *, chat: bool) -> dict[str, Any]:
    if count is None:
        return {}
    if not chat:
        return {"logprobs": count}
    return {"logprobs": True, **({"top_logprobs": count} if count else {})}
