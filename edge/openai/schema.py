"""The JSON bodies that callers send, as OpenAI's API has them, checked by msgspec.

A field that is unknown, of the wrong type or out of range is refused by name. Fields of the API
that this appliance cannot honour are known here too, so that they are refused with the right
words and not ignored: an answer that silently lacks what was asked for is worse than none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge.types import Priority

Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = StopText | Annotated[list[StopText], Meta(max_length=16)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
SchemaName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Meta(min_length=1, max_length=256)]
MOST_TOOLS = 128
MOST_TURNS = 8192
"""Each is looked at by itself; no context holds as many."""

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all objects in a request."""


class StreamOptions(Body, kw_only=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class EdgeOptions(Body, kw_only=True):
    """The appliance's own fields, in the object `edge`."""

    route: Literal["auto", "local", "cloud", "queue"] = "auto"
    priority: Priority = "normal"
    deadline_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    cache: bool | None = None
    allow_queue: bool = False
    on_cut: Literal["continue", "fail"] = "continue"
    shared_prefix: bool = False
    webhook: Annotated[str, Meta(pattern=r"^https?://[^\s/]", max_length=2048)] | None = None


class TextPart(msgspec.Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    text: str


class CalledFunction(Body, kw_only=True):
    name: FunctionName
    arguments: str


class CallBody(Body, kw_only=True):
    """A call in a message of the assistant's."""

    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"


class TurnBody(Body, kw_only=True):
    """A chat message. Contents other than text are refused; `parse` tells which of the fields a
    role needs."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: CallId | None = None
    # Of an earlier answer that is sent back.
    refusal: None = None


class FunctionBody(Body, kw_only=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body, kw_only=True):
    type: Literal["function"]
    function: FunctionBody


class FlatToolBody(Body, kw_only=True):
    """As /v1/responses has it."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Body, kw_only=True):
    name: FunctionName


class NamedTool(Body, kw_only=True):
    type: Literal["function"]
    function: NamedFunction


class NamedChoice(Body, kw_only=True, tag_field="type", tag="function"):
    function: NamedFunction


class AllowedTools(Body, kw_only=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class AllowedChoice(Body, kw_only=True, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


class FlatNamedTool(Body, kw_only=True):
    type: Literal["function"]
    name: FunctionName


class FlatNamedChoice(Body, kw_only=True, tag_field="type", tag="function"):
    name: FunctionName


class FlatAllowedChoice(Body, kw_only=True, tag_field="type", tag="allowed_tools"):
    mode: Literal["auto", "required"]
    tools: Annotated[list[FlatNamedTool], Meta(min_length=1)]


ToolMode = Literal["none", "auto", "required"]


class Format(Body, kw_only=True, tag_field="type"):
    """Base of what an answer may have to look like."""


class TextFormat(Format, kw_only=True, tag="text"):
    pass


class JsonObjectFormat(Format, kw_only=True, tag="json_object"):
    pass


class SchemaBody(Body, kw_only=True):
    name: SchemaName
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class JsonSchemaFormat(Format, kw_only=True, tag="json_schema"):
    json_schema: SchemaBody


class FlatSchemaFormat(Format, kw_only=True, tag="json_schema"):
    """As /v1/responses has it."""

    name: SchemaName
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class RegexFormat(Format, kw_only=True, tag="regex"):
    """The appliance's own, like the two that follow."""

    regex: str


class LarkFormat(Format, kw_only=True, tag="lark"):
    lark: str


class GbnfFormat(Format, kw_only=True, tag="gbnf"):
    gbnf: str


ResponseFormat = (
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | LarkFormat | GbnfFormat
)
FlatFormat = TextFormat | JsonObjectFormat | FlatSchemaFormat


class RequestBody(Body, kw_only=True):
    """What all requests share."""

    model: str | None = None
    edge: EdgeOptions | None = None
    # Accepted and without effect on the answer: a note of the caller for the caller.
    user: str | None = None


class CommonBody(RequestBody, kw_only=True):
    """What chat and plain completions share."""

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = 1
    max_tokens: MaxTokens | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Unit | None = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = 0
    min_p: Unit | None = 0.0
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = 1.0
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=1024)] | None = None
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    metadata: Any = None  # a note of the caller too


class ChatBody(CommonBody, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[TurnBody], Meta(min_length=1, max_length=MOST_TURNS)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolMode | NamedChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionBody(CommonBody, kw_only=True):
    """POST /v1/completions"""

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None


class InputText(msgspec.Struct, tag="input_text", tag_field="type", forbid_unknown_fields=True):
    text: str


class OutputText(msgspec.Struct, tag="output_text", tag_field="type", forbid_unknown_fields=True):
    """A part of an earlier answer that is sent back; what was noted beside it has no effect."""

    text: str
    annotations: Any = None
    logprobs: Any = None


class InputItem(Body, kw_only=True):
    """A message of the conversation, a call, or its result; an item of an earlier Response's
    `output` is one too. `parse` tells which of the fields a type needs."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputText | OutputText] | None = None
    call_id: CallId | None = None
    name: FunctionName | None = None
    arguments: str | None = None
    output: str | list[InputText] | None = None
    id: str | None = None
    status: str | None = None


class TextOptions(Body, kw_only=True):
    format: FlatFormat | None = None


class ResponseBody(RequestBody, kw_only=True):
    """POST /v1/responses"""

    input: str | Annotated[list[InputItem], Meta(min_length=1, max_length=MOST_TURNS)]
    instructions: str | None = None
    stream: bool | None = False
    background: bool | None = False
    max_output_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Unit | None = 1.0
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FlatToolBody], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolMode | FlatNamedChoice | FlatAllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = None
    include: Annotated[list[Any], Meta(max_length=0)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    seed: Seed | None = None
    ignore_eos: bool = False
    # Accepted and without effect on the answer.
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


UNSUPPORTED = {
    "tools[].type": "tools other than functions",
    "tool_choice.type": "tools other than functions",
    "functions": "the older form of tools",
    "function_call": "the older form of tools",
    "audio": "audio",
    "modalities": "modalities other than text",
    "prediction": "predicted outputs",
    "reasoning_effort": "reasoning effort",
    "verbosity": "verbosity",
    "web_search_options": "web search",
    "store": "stored completions",
    "service_tier": "service tiers",
    "suffix": "a suffix",
    "best_of": "best_of above 1",
    "echo": "echo",
    "include": "extra output",
    "previous_response_id": "a conversation kept here",
    "conversation": "a conversation kept here",
    "reasoning": "reasoning",
    "truncation": "truncation",
}
"""Fields of OpenAI's API that are refused with their own words; by the field itself, or where it
stands."""
