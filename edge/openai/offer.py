"""The tools that a body offers, its `tool_choice`, and `parallel_tool_calls`. Pure."""

from __future__ import annotations

import msgspec

from edge.errors import InvalidRequest
from edge.openai.schema import (
    AllowedChoice,
    AllowedTools,
    ChatBody,
    FlatAllowedChoice,
    FlatNamedChoice,
    FlatToolBody,
    FunctionBody,
    NamedChoice,
    NamedFunction,
    NamedTool,
    ToolBody,
    ToolMode,
)
from edge.types import Tool, Tools

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


def tools_of(body: ChatBody) -> Tools | None:
    """Raises `InvalidRequest` for names that come twice or that are nobody's, and for parameters
    that are no object."""
    if not body.tools:
        if body.tool_choice not in (None, "none"):
            raise InvalidRequest("`tool_choice` needs `tools`", param="tool_choice")
        return None
    offered = [_tool(number, tool.function) for number, tool in enumerate(body.tools)]
    _check_names([tool.name for tool in offered])
    tools = Tools(offered, parallel=body.parallel_tool_calls is not False)
    choice = body.tool_choice
    if isinstance(choice, NamedChoice):
        tools.choice, tools.allowed = "named", [choice.function.name]
        _check_known(tools, "tool_choice.function.name")
    elif isinstance(choice, AllowedChoice):
        allowed = choice.allowed_tools
        tools.choice = allowed.mode
        tools.allowed = [tool.function.name for tool in allowed.tools]
        _check_known(tools, "tool_choice.allowed_tools.tools")
    elif choice is not None:
        tools.choice = choice
    return tools


def chat_tools(tools: list[FlatToolBody] | None) -> list[ToolBody] | None:
    """Those of a request for a Response as a chat has them."""
    if tools is None:
        return None
    return [
        ToolBody(
            type="function",
            function=FunctionBody(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                strict=tool.strict,
            ),
        )
        for tool in tools
    ]


def chat_choice(
    choice: ToolMode | FlatNamedChoice | FlatAllowedChoice | None,
) -> ToolMode | NamedChoice | AllowedChoice | None:
    if isinstance(choice, FlatNamedChoice):
        return NamedChoice(function=NamedFunction(name=choice.name))
    if isinstance(choice, FlatAllowedChoice):
        named = [
            NamedTool(type="function", function=NamedFunction(name=tool.name))
            for tool in choice.tools
        ]
        return AllowedChoice(allowed_tools=AllowedTools(mode=choice.mode, tools=named))
    return choice


def _tool(number: int, function: FunctionBody) -> Tool:
    param = f"tools[{number}].function.parameters"
    schema = function.parameters
    if schema is None:
        schema = NO_PARAMETERS
    elif schema.get("type", "object") != "object":
        raise InvalidRequest(
            "the arguments of a function are an object; this schema is of another type", param=param
        )
    text = msgspec.json.encode({**schema, "type": "object"}).decode()
    return Tool(function.name, text, param, function.description, function.strict)


def _check_names(names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidRequest(
                f"there are two tools called `{name}`", param=f"tools[{number}].function.name"
            )


def _check_known(tools: Tools, param: str) -> None:
    names = {tool.name for tool in tools.offered}
    for name in tools.allowed:
        if name not in names:
            raise InvalidRequest(f"no tool is called `{name}`", param=param)
