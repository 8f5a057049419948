"""The turns of a conversation, calls of tools and their results among them. Pure.

Every call is answered, by the turns right behind it, and every result answers a call: what is
missing would be missing in the model's prompt, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from edge.errors import InvalidRequest
from edge.openai.schema import (
    CallBody,
    CalledFunction,
    InputItem,
    InputText,
    OutputText,
    TextPart,
    TurnBody,
)
from edge.types import Message, ToolCall

T = TypeVar("T")


def conversation(turns: Sequence[TurnBody]) -> list[Message]:
    """Raises `InvalidRequest` with the place of what is missing or wrong."""
    messages: list[Message] = []
    open_calls: dict[str, tuple[str, str]] = {}  # by id: the name, and where the call stands
    for number, turn in enumerate(turns):
        place = f"messages[{number}]"
        if turn.role == "tool":
            messages.append(_result(turn, place, open_calls))
            continue
        _check_answered(open_calls)
        message = _message(turn, place)
        for at, call in enumerate(message.tool_calls):
            if call.id in open_calls:
                param = f"{place}.tool_calls[{at}].id"
                raise InvalidRequest(f"two calls have the id `{call.id}`", param=param)
            open_calls[call.id] = (call.name, f"{place}.tool_calls[{at}]")
        messages.append(message)
    _check_answered(open_calls)
    return messages


def turns_of(items: Sequence[InputItem]) -> list[TurnBody]:
    """The input of a request for a Response as turns of a chat: calls that follow each other, and
    a text before them, are one turn. Raises `InvalidRequest`."""
    turns: list[TurnBody] = []
    open_calls: dict[str, tuple[str, str]] = {}
    for number, item in enumerate(items):
        place = f"input[{number}]"
        if item.type == "function_call_output":
            call_id = _needed(item.call_id, f"{place}.call_id")
            if open_calls.pop(call_id, None) is None:
                raise _no_call(call_id, f"{place}.call_id")
            output = _text(item.output, f"{place}.output")
            turns.append(TurnBody(role="tool", content=output, tool_call_id=call_id))
        elif item.type == "function_call":
            call = _call_item(item, place)
            if call.id in open_calls:
                raise InvalidRequest(f"two calls have the id `{call.id}`", param=place)
            open_calls[call.id] = (call.function.name, place)
            if not turns or turns[-1].role != "assistant":
                turns.append(TurnBody(role="assistant"))
            turns[-1].tool_calls = [*(turns[-1].tool_calls or []), call]
        else:
            _check_answered(open_calls)
            if item.role is None:
                raise _missing(f"{place}.role")
            content = _text(item.content, f"{place}.content")
            turns.append(TurnBody(role=item.role, content=content))
    _check_answered(open_calls)
    return turns


def _message(turn: TurnBody, place: str) -> Message:
    if turn.tool_call_id is not None:
        raise InvalidRequest(
            f"`{place}.tool_call_id` goes with the role `tool`", param=f"{place}.tool_call_id"
        )
    if turn.tool_calls and turn.role != "assistant":
        raise InvalidRequest(
            f"`{place}.tool_calls` goes with the role `assistant`", param=f"{place}.tool_calls"
        )
    content = turn.content
    if content is None and turn.tool_calls:
        content = ""
    calls = [
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in turn.tool_calls or []
    ]
    # `developer` is OpenAI's newer word for the same role; templates know only `system`.
    role = "system" if turn.role == "developer" else turn.role
    return Message(role, _text(content, f"{place}.content"), turn.name, calls)


def _result(turn: TurnBody, place: str, open_calls: dict[str, tuple[str, str]]) -> Message:
    """The result of a call; templates want to know of which function it is."""
    call_id = _needed(turn.tool_call_id, f"{place}.tool_call_id")
    content = _text(turn.content, f"{place}.content")
    if turn.tool_calls:
        raise InvalidRequest("a tool calls nothing", param=f"{place}.tool_calls")
    called = open_calls.pop(call_id, None)
    if called is None:
        raise _no_call(call_id, f"{place}.tool_call_id")
    return Message("tool", content, turn.name or called[0], tool_call_id=call_id)


def _call_item(item: InputItem, place: str) -> CallBody:
    return CallBody(
        id=_needed(item.call_id, f"{place}.call_id"),
        function=CalledFunction(
            name=_needed(item.name, f"{place}.name"),
            arguments=_needed(item.arguments, f"{place}.arguments"),
        ),
    )


def _text(content: str | Sequence[TextPart | InputText | OutputText] | None, param: str) -> str:
    if content is None:
        raise _missing(param)
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _no_call(call_id: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{param}`: no call `{call_id}` stands right before this result", param=param
    )


def _check_answered(open_calls: dict[str, tuple[str, str]]) -> None:
    for call_id, (_, place) in open_calls.items():
        raise InvalidRequest(
            f"`{place}`: the call `{call_id}` has no result among what follows it", param=place
        )


def _needed(value: T | None, param: str) -> T:
    if value is None:
        raise _missing(param)
    return value


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"`{param}`: missing", param=param)
