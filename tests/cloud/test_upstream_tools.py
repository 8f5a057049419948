"""Tools at an upstream: what is sent, and calls in whichever way they come back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from asking import Make, ask, chat, finish_of, text_of
from fake_cloud import FakeCloud

from edge.cloud.answer import Answer
from edge.cloud.failure import CallFailed
from edge.cloud.key import Key
from edge.cloud.upstream import Upstream
from edge.errors import UpstreamError
from edge.toolcalls import gather
from edge.types import ChatPrompt, Delta, Message, Part, Request, Tool, ToolCall, Tools

SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}}}'
OFFERED = [Tool("f", SCHEMA, "tools[0]", "Does f.", True), Tool("g", SCHEMA, "tools[1]")]
FUNCTIONS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "description": "Does f.",
            "parameters": json.loads(SCHEMA),
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "g", "parameters": json.loads(SCHEMA)}},
]
HI = [Message("user", "Hi.")]
CALLS = [["f", '{"a": 17}'], ["g", '{"a": [{"b": "}"}]}']]


def asking(tools: Tools, messages: list[Message] | None = None, **fields: Any) -> Request:
    return chat(prompts=[ChatPrompt(messages or HI, tools)], **fields)


def calls_of(parts: list[Part]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for part in parts:
        if isinstance(part.event, Delta):
            gather(calls, part.event.calls)
    return calls


NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("tools", "sent"),
    [
        (Tools(OFFERED), {"tools": FUNCTIONS}),
        (Tools(OFFERED, "none"), {"tools": FUNCTIONS, "tool_choice": "none"}),
        (
            Tools(OFFERED, "required", parallel=False),
            {"tools": FUNCTIONS, "tool_choice": "required", "parallel_tool_calls": False},
        ),
        (Tools(OFFERED, "named", ["g"]), {"tools": FUNCTIONS, "tool_choice": NAMED}),
        (Tools(OFFERED, "auto", ["g"]), {"tools": FUNCTIONS[1:]}),
    ],
)
async def test_what_is_sent(
    upstream: Upstream, cloud: FakeCloud, tools: Tools, sent: dict[str, Any]
) -> None:
    """All in the words of OpenAI's API, and only what the caller set."""
    await ask(upstream, asking(tools))
    body = cloud.calls()[0]["body"]
    assert {name: body[name] for name in body if "tool" in name} == sent


async def test_a_history_with_calls(upstream: Upstream, cloud: FakeCloud) -> None:
    """As it came from the caller."""
    history = [
        *HI,
        Message("assistant", "", tool_calls=[ToolCall("c1", "f", '{"a": 1}')]),
        Message("tool", "done", name="f", tool_call_id="c1"),
    ]
    await ask(upstream, asking(Tools(OFFERED), history))
    called = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert cloud.calls()[0]["body"]["messages"] == [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
async def test_calls(make: Make, cloud: FakeCloud, stream: bool, reason: str) -> None:
    """In pieces as they come, or whole; some servers call their end `stop`."""
    cloud.set(calls=CALLS, reason=reason)
    parts = await ask(make(stream=stream), asking(Tools(OFFERED)))
    assert text_of(parts) == ""
    assert [(call.id, call.name, call.arguments) for call in calls_of(parts)] == [
        ("call_0", *CALLS[0]),
        ("call_1", *CALLS[1]),
    ]
    assert finish_of(parts).reason == "tool_calls"
    assert len(parts) > 8 or not stream


async def test_a_limit_within_a_call(upstream: Upstream, cloud: FakeCloud) -> None:
    """`length` it is, and the arguments are what has come."""
    cloud.set(calls=[["f", '{"a": ']], reason="length")
    parts = await ask(upstream, asking(Tools(OFFERED)))
    assert finish_of(parts).reason == "length"
    assert calls_of(parts)[0].arguments == '{"a": '


@pytest.mark.parametrize(
    ("calls", "tools"),
    [
        ([["h", "{}"]], Tools(OFFERED)),
        ([["f", "{}"]], Tools(OFFERED, "none")),
        ([["f", "{}"]], Tools(OFFERED, "named", ["g"])),
        ([["f", '{"a": ']], Tools(OFFERED)),
        ([["f", "[1]"]], Tools(OFFERED)),
        ([["f", "{}"], ["g", "{'a': 1}"]], Tools(OFFERED)),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_call(
    make: Make, cloud: FakeCloud, calls: list[list[str]], tools: Tools, stream: bool
) -> None:
    """A tool that may not be called, or arguments that are no JSON object: a failure of the
    upstream, and no answer."""
    cloud.set(calls=calls)
    with pytest.raises(UpstreamError, match="call of"):
        await ask(make(stream=stream), asking(tools))


def piece(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"tool_calls": [fields]}}]}


def named(name: str, arguments: Any = None) -> dict[str, Any]:
    return {"name": name} if arguments is None else {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (
            [
                piece(index=0, id="x", function=named("f", "")),
                piece(index=0, function={"arguments": '{"a"'}),
                piece(index=0, function={"arguments": ":1}"}),
            ],
            [("x", "f", '{"a":1}')],
        ),
        (
            [piece(id="x", function=named("f", "{}")), piece(id="y", function=named("g", "{}"))],
            [("x", "f", "{}"), ("y", "g", "{}")],
        ),
        (
            [
                piece(index=0, id="x", function=named("f", "{}")),
                piece(index=0, id="y", function=named("g", "{}")),
            ],
            [("x", "f", "{}"), ("y", "g", "{}")],
        ),
        (
            [
                piece(index=0, id="x", function=named("f", "{")),
                piece(index=0, id="x", function=named("f", "}")),
            ],
            [("x", "f", "{}")],
        ),
        (
            [piece(function=named("f", "{")), piece(function={"arguments": "}"})],
            [("call_", "f", "{}")],
        ),
        ([piece(index=3, id="x", function=named("f"))], [("x", "f", "{}")]),
        ([piece(index=0, id="x", function=named("f", {"a": 1}))], [("x", "f", '{"a":1}')]),
    ],
    ids=[
        *("OpenAI", "whole, no index", "whole, one index", "names again", "no ids"),
        *("no arguments", "an object"),
    ],
)
def test_ways_to_tell_a_call(
    chunks: list[dict[str, Any]], expected: list[tuple[str, str, str]]
) -> None:
    """All become the same."""
    answer = Answer("x", Key("sk-secret"), frozenset(["f", "g"]))
    calls: list[ToolCall] = []
    for chunk in [*chunks, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]:
        found = answer.event(msgspec.json.encode(chunk))
        gather(calls, found.calls if found else [])
    assert answer.reason == "tool_calls"
    assert len(calls) == len(expected)
    for call, (call_id, name, arguments) in zip(calls, expected, strict=True):
        assert call.id.startswith(call_id)
        assert (call.name, call.arguments) == (name, arguments)


@pytest.mark.parametrize(
    "chunk",
    [
        piece(index=0, id="x"),
        piece(index=0, id="x", function={"arguments": "{}"}),
        {"choices": [{"delta": {"function_call": {"name": "f", "arguments": "{}"}}}]},
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ],
)
def test_what_is_garbage(chunk: dict[str, Any]) -> None:
    """Calls without a name, in OpenAI's older form, or none where some were announced."""
    answer = Answer("x", Key("sk-secret"), frozenset(["f", "g"]))
    with pytest.raises(CallFailed) as caught:
        answer.event(msgspec.json.encode(chunk))
    assert caught.value.failure.outcome == "garbage"
