"""Tools that cannot be offered, and conversations in which calls and results do not match."""

from __future__ import annotations

import json
from typing import Any

import pytest
from daemon_process import DaemonProcess

TURN = {"role": "user", "content": "Go"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "done"}


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def refusal(daemon: DaemonProcess, path: str = "chat/completions", **fields: Any) -> dict[str, Any]:
    """The error object of what is refused with 400."""
    begun = {"input": "Go"} if path == "responses" else {"messages": [TURN], "max_tokens": 8}
    answer = daemon.post(f"/v1/{path}", {**begun, **fields})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [function(), function("g"), function()]}, "tools[2].function.name"),
        ({"tools": [function("no blanks")]}, "tools[0].function.name"),
        ({"tools": [function("x" * 65)]}, "tools[0].function.name"),
        ({"tools": [function(""), function("g")]}, "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [function(colour=1)]}, "tools[0].function.colour"),
        ({"tools": [function(f"f{n}") for n in range(129)]}, "tools"),
        ({"tools": [function(parameters=[])]}, "tools[0].function.parameters"),
        (
            {"tools": [function(), function("g", parameters={"type": "string"})]},
            "tools[1].function.parameters",
        ),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [function()], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [function()], "tool_choice": named("g")}, "tool_choice.function.name"),
        (
            {
                "tools": [function()],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [named("g")]},
                },
            },
            "tool_choice.allowed_tools.tools",
        ),
        (
            {
                "tools": [function()],
                "response_format": {"type": "regex", "regex": "a"},
            },
            "response_format",
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_tools_that_cannot_be_offered(
    daemon: DaemonProcess, fields: dict[str, Any], param: str
) -> None:
    """Refused by name."""
    assert refusal(daemon, **fields)["param"] == param


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([TURN, RESULT], "messages[1].tool_call_id"),
        ([TURN, CALLING, {**RESULT, "tool_call_id": "c2"}], "messages[2].tool_call_id"),
        ([TURN, CALLING, {"role": "tool", "content": "done"}], "messages[2].tool_call_id"),
        ([TURN, CALLING, {**RESULT, "content": None}], "messages[2].content"),
        ([TURN, CALLING, RESULT, RESULT], "messages[3].tool_call_id"),
        ([TURN, CALLING], "messages[1].tool_calls[0]"),
        ([TURN, CALLING, TURN], "messages[1].tool_calls[0]"),
        ([TURN, CALLING, TURN, RESULT], "messages[1].tool_calls[0]"),
        ([TURN, {**CALLING, "tool_calls": [CALL, CALL]}], "messages[1].tool_calls[1].id"),
        ([TURN, {**CALLING, "tool_calls": [{**CALL, "id": ""}]}], "messages[1].tool_calls[0].id"),
        ([{**TURN, "tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([{**TURN, "tool_call_id": "c1"}], "messages[0].tool_call_id"),
        ([TURN, {"role": "assistant", "content": None}], "messages[1].content"),
        (
            [TURN, {**CALLING, "tool_calls": [{"id": "c1", "type": "function"}]}],
            "messages[1].tool_calls[0].function",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else json.dumps(value)[-60:],
)
def test_calls_and_results_that_do_not_match(
    daemon: DaemonProcess, messages: list[dict[str, Any]], param: str
) -> None:
    """Where it is missing or wrong is in the answer."""
    assert refusal(daemon, messages=messages)["param"] == param


ITEM = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([TURN, OUTPUT], "input[1].call_id"),
        ([TURN, ITEM], "input[1]"),
        ([TURN, ITEM, TURN], "input[1]"),
        ([TURN, ITEM, ITEM], "input[2]"),
        ([TURN, {**ITEM, "name": None}], "input[1].name"),
        ([TURN, ITEM, {**OUTPUT, "output": None}], "input[2].output"),
        ([{"content": "Go"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"type": "reasoning"}], "input[0].type"),
    ],
    ids=lambda value: "" if isinstance(value, str) else json.dumps(value)[-60:],
)
def test_items_that_do_not_match(
    daemon: DaemonProcess, items: list[dict[str, Any]], param: str
) -> None:
    """The same for the input of a Response."""
    assert refusal(daemon, "responses", input=items)["param"] == param


FLAT = {"type": "function", "name": "f", "parameters": {"uniqueItems": True}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{**FLAT, "parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"tools": [FLAT]}, "tools[0].parameters"),
        ({"tools": [{**FLAT, "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**FLAT, "parameters": {}}] * 2}, "tools[1].name"),
        ({"tools": [FLAT], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ],
    ids=lambda value: json.dumps(value)[-60:] if isinstance(value, dict) else "",
)
def test_tools_of_a_response(daemon: DaemonProcess, fields: dict[str, Any], param: str) -> None:
    """Where they stand is told as that API has it."""
    assert refusal(daemon, "responses", **fields)["param"] == param


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


HOSTILE: dict[str, dict[str, Any]] = {
    "large": schema(a={"enum": ["x" * 5_000_000]}),
    "deep": schema(a=json.loads('{"items":' * 150 + "{}" + "}" * 150)),
    "multiple": schema(a={"type": "integer", "multipleOf": 999983}),
    "references": {
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 3000}"} for i in range(3000)},
        "$ref": "#/$defs/d0",
    },
    "pattern": schema(a={"type": "string", "pattern": "^(a{1000}){1000}$"}),
    "unknown": schema(a={"type": "array", "uniqueItems": True}),
    "remote": schema(a={"$ref": "http://127.0.0.1:9/x.json"}),
    "impossible": {
        **schema(a={"type": "integer", "minimum": 3, "maximum": 2}),
        "required": ["a"],
    },
    "x-guidance": schema(a={"x-guidance": {"lenient": True}}),
}


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_parameters(daemon: DaemonProcess, choice: str, name: str) -> None:
    """Refused by the place of the tool that they are of, whether it would be called or not."""
    tools = [function("fine", parameters=schema(a={})), function(parameters=HOSTILE[name])]
    error = refusal(daemon, tools=tools, tool_choice=choice)
    assert error["param"] == "tools[1].function.parameters"
    assert len(error["message"]) < 500


def test_too_much_of_them_together(daemon: DaemonProcess) -> None:
    """Each of them may be, and all of them may not."""
    parameters = schema(a={"enum": ["x" * 2000]})
    tools = [function(f"f{n}", parameters=parameters) for n in range(100)]
    assert refusal(daemon, tools=tools)["param"] == "tools"
