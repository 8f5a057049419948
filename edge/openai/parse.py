"""From the bytes of a request, and the headers beside it, to a `Request` of the service.

Pure: raises `InvalidRequest` with the name of the field at fault, and has no state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from edge.errors import InvalidRequest, UnsupportedParameter
from edge.openai.conversation import conversation, turns_of
from edge.openai.offer import chat_choice, chat_tools, tools_of
from edge.openai.schema import (
    UNSUPPORTED,
    Body,
    ChatBody,
    CommonBody,
    CompletionBody,
    EdgeOptions,
    FlatFormat,
    FlatSchemaFormat,
    GbnfFormat,
    InputItem,
    JsonObjectFormat,
    JsonSchemaFormat,
    LarkFormat,
    RegexFormat,
    RequestBody,
    ResponseBody,
    ResponseFormat,
    SchemaBody,
    TurnBody,
)
from edge.types import (
    ChatPrompt,
    Grammar,
    Prompt,
    Request,
    Sampling,
    TextPrompt,
    TokenPrompt,
)

T = TypeVar("T", bound=Body)

MOST_VALUES = 131_072
"""Values in a body: as many as texts or tokens are taken at once. Decoding holds Python's lock to
its end, and two million little lists, which fit into 8 MB, took it for more than a second."""


def decode(raw: bytes, body: type[T]) -> T:
    """Raises `InvalidRequest` for what is not JSON or not what the fields allow."""
    check_values(raw)
    try:
        return msgspec.json.decode(raw, type=body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def check_values(raw: bytes) -> None:
    """Raises `InvalidRequest` for JSON of too many values, counted by the commas outside of texts.

    In blocks, so that other threads have their turns.
    """
    if raw.count(b",") < MOST_VALUES:
        return
    values, at, in_text = 0, 0, False
    while at < len(raw):
        end = at + 65536
        while raw[end - 1 : end] == b"\\":  # what it escapes stays with it
            end += 1
        pieces = raw[at:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        values += b"".join(pieces[in_text::2]).count(b",")
        in_text ^= len(pieces) % 2 == 0
        at = end
        if values >= MOST_VALUES:
            raise InvalidRequest(f"the body has more than {MOST_VALUES} values")


def fields_of(texts: Mapping[str, str], body: type[T]) -> T:
    """Fields as a query or a form has them. Raises `InvalidRequest` as `decode` does."""
    try:
        return msgspec.convert(dict(texts), body, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None


def merge_headers(body: RequestBody, headers: Mapping[str, str]) -> None:
    """Put the headers `X-Edge-…` into the body's `edge` object; they win over what is there."""
    body.edge = with_headers(body.edge or EdgeOptions(), headers)


def response_request(body: ResponseBody, request_id: str) -> Request:
    """Refusals tell places as that API has them: of tools, it has everything one level higher."""
    try:
        request = chat_request(chat_of(body), request_id)
    except InvalidRequest as error:
        error.param = error.param and error.param.replace(".function", "")
        raise
    for tool in request.tools.offered if request.tools else []:
        tool.param = tool.param.replace(".function", "")
    return request


def chat_request(body: ChatBody, request_id: str) -> Request:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    prompt = ChatPrompt(conversation(body.messages), tools_of(body))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return _request(body, [prompt], limit, logprobs, request_id)


def completion_request(body: CompletionBody, request_id: str) -> Request:
    prompts = _prompts(body.prompt)
    return _request(body, prompts, body.max_tokens, body.logprobs, request_id)


def chat_of(body: ResponseBody) -> ChatBody:
    """The chat that a request for a Response stands for."""
    given = body.input
    items = [InputItem(role="user", content=given)] if isinstance(given, str) else given
    turns = turns_of(items)
    if body.instructions is not None:
        turns.insert(0, TurnBody(role="system", content=body.instructions))
    return ChatBody(
        messages=turns,
        model=body.model,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        ignore_eos=body.ignore_eos,
        response_format=_chat_format(body.text.format if body.text else None),
        tools=chat_tools(body.tools),
        tool_choice=chat_choice(body.tool_choice) if body.tools else None,
        parallel_tool_calls=body.parallel_tool_calls,
        edge=body.edge,
    )


def _grammar(form: ResponseFormat | None) -> Grammar | None:
    """What the answer has to follow; a schema keeps the order of its properties."""
    if isinstance(form, JsonObjectFormat):
        return Grammar("json_object")
    if isinstance(form, JsonSchemaFormat):
        given = form.json_schema
        schema = msgspec.json.encode(given.schema).decode()
        return Grammar("json_schema", schema, given.name, given.strict, given.description)
    if isinstance(form, RegexFormat):
        return Grammar("regex", form.regex)
    if isinstance(form, LarkFormat):
        return Grammar("lark", form.lark)
    if isinstance(form, GbnfFormat):
        return Grammar("gbnf", form.gbnf)
    return None


def _chat_format(form: FlatFormat | None) -> ResponseFormat | None:
    """The same as a chat has it."""
    if not isinstance(form, FlatSchemaFormat):
        return form
    return JsonSchemaFormat(
        json_schema=SchemaBody(
            name=form.name, schema=form.schema, strict=form.strict, description=form.description
        )
    )


def _prompts(prompt: str | list[Any]) -> list[Prompt]:
    """The four forms of OpenAI's field: text, texts, tokens, lists of tokens."""
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if not prompt:
        raise InvalidRequest("the prompt is empty", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return [TokenPrompt(prompt)]
    if all(isinstance(item, str) for item in prompt):
        return [TextPrompt(item) for item in prompt]
    if all(isinstance(item, list) for item in prompt):
        return [TokenPrompt(item) for item in prompt]
    raise InvalidRequest("a prompt is text, or texts, or token ids, not a mixture", param="prompt")


def _request(
    body: CommonBody,
    prompts: list[Prompt],
    max_tokens: int | None,
    logprobs: int | None,
    request_id: str,
) -> Request:
    options = body.edge or EdgeOptions()
    stop = body.stop or []
    return Request(
        id=request_id,
        prompts=prompts,
        sampling=_sampling(body),
        model=body.model,
        max_tokens=max_tokens,
        stop=[stop] if isinstance(stop, str) else stop,
        ignore_eos=body.ignore_eos,
        grammar=_grammar(body.response_format),
        logprobs=logprobs,
        n=body.n or 1,
        priority=options.priority,
        route=options.route,
        on_cut=options.on_cut,
        may_wait=options.allow_queue,
        cache=options.cache,
        shared_prefix=options.shared_prefix,
        deadline=None if options.deadline_ms is None else options.deadline_ms / 1000,
    )


def _sampling(body: CommonBody) -> Sampling:
    """A field that is null means its default, as in OpenAI's API."""
    default = Sampling()

    def value(name: str) -> Any:
        given = getattr(body, name)
        return getattr(default, name) if given is None else given

    return Sampling(
        temperature=value("temperature"),
        top_p=value("top_p"),
        top_k=value("top_k"),
        min_p=value("min_p"),
        presence_penalty=value("presence_penalty"),
        frequency_penalty=value("frequency_penalty"),
        repeat_penalty=value("repeat_penalty"),
        seed=body.seed,
        logit_bias=_logit_bias(body.logit_bias or {}),
    )


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for key in bias:
        if not re.fullmatch(r"[0-9]{1,9}", key):
            raise InvalidRequest(
                f"logit_bias maps token ids to numbers, and {key!r} is no token id",
                param="logit_bias",
            )
    return {int(token): value for token, value in bias.items()}


class _Edge(Body, kw_only=True):
    edge: EdgeOptions | None = None


def decode_options(given: object) -> EdgeOptions:
    """The object `edge` of a body that is decoded already. Raises `InvalidRequest`."""
    try:
        return msgspec.convert({"edge": given}, _Edge).edge or EdgeOptions()
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None


def with_headers(options: EdgeOptions, headers: Mapping[str, str]) -> EdgeOptions:
    """The `edge` object of a body; a header of the same meaning wins over it."""
    given: dict[str, Any] = {}
    for name, header in (("route", "x-edge-route"), ("priority", "x-edge-priority")):
        if header in headers:
            given[name] = headers[header]
    if (deadline := headers.get("x-edge-deadline-ms")) is not None:
        # Longer than any number that is allowed, and short enough for int().
        given["deadline_ms"] = int(deadline[:20]) if deadline.isdecimal() else deadline
    if not given:
        return options
    try:
        return msgspec.convert({**msgspec.structs.asdict(options), **given}, EdgeOptions)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`")
        header = f"X-Edge-{field.replace('_', '-').title()}"
        raise InvalidRequest(f"{message} in {header}", param=f"edge.{field}") from None


def _refusal(problem: str) -> InvalidRequest:
    """msgspec's message as an error that names the field the way OpenAI's API does."""
    message, _, path = problem.partition(" - at `$")
    param = path.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        param = f"{param}.{unknown[1]}" if param else unknown[1]
        message = "Unrecognized request argument"
    root = re.split(r"[.\[]", param)[-1 if unknown else 0]
    words = UNSUPPORTED.get(root) or UNSUPPORTED.get(re.sub(r"\d+", "", param))
    if words:
        return UnsupportedParameter(
            f"`{param}`: {words} cannot be had from this appliance", param=param
        )
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
        param = f"{param}.{missing[1]}" if param else missing[1]
        message = "missing"
    return InvalidRequest(f"`{param}`: {message}" if param else message, param=param or None)
