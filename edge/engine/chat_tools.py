"""Tools in a prompt: as a template takes them, or written out for one that knows none. Pure.

A template that knows tools is one that spells calls as `edge/toolcalls.py` does, because answers
are bound to that form, and a model is at its best in the form that it has learned. All others get
a system text that lists the tools and tells the form, calls as they are spelled, and results in
the user's turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from edge.toolcalls import HEAD, TAIL, TRIGGER, spell
from edge.types import Message, Tool, ToolCall

RESULT = "<tool_response>\n{content}\n</tool_response>"

INSTRUCTIONS = (
    "You can have functions called. Each of them is described by a line of JSON, with the JSON"
    " schema of its arguments:\n<tools>\n{tools}\n</tools>\n"
    "To have one called, write its name and its arguments in this form, and nothing behind it:\n"
    + TRIGGER
    + HEAD.format(name="NAME").replace("{", "{{")
    + "{{…}}"
    + TAIL.replace("}", "}}")
)

PROBE_TOOL = Tool("probe_name", '{"type": "object", "properties": {}}', "", "probe_description")
PROBE = [
    Message("user", "probe_question"),
    Message("assistant", "", tool_calls=[ToolCall("probe00id", "probe_name", '{"probe_key": 1}')]),
    Message("tool", "probe_result", name="probe_name", tool_call_id="probe00id"),
]
PROBED = re.compile(
    r"probe_description.*<tool_call>\s*"
    r'\{"name":\s*"probe_name",\s*"arguments":\s*\{"probe_key":\s*1\}\}\s*</tool_call>'
    r".*probe_result",
    re.DOTALL,
)
"""What a template makes of the probe that knows tools and spells calls as it should."""


def described(tool: Tool) -> dict[str, Any]:
    """As templates and models know tools, which is how OpenAI's API has them."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = json.loads(tool.parameters)
    return {"type": "function", "function": function}


def call_turn(call: ToolCall) -> dict[str, Any]:
    """A call of an earlier turn for a template: its arguments as the object that they are."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):  # of an answer that was cut
        arguments = call.arguments
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def marked(value: Any, content: Callable[[str], str]) -> Any:
    """The same with `content` around every text, keys included."""
    if isinstance(value, str):
        return content(value)
    if isinstance(value, dict):
        return {content(key): marked(item, content) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item, content) for item in value]
    return value


def written_out(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation without tools, calls and results, all of them in the contents."""
    turns: list[Message] = []
    in_results = False
    for message in messages:
        if message.role == "tool":
            result = RESULT.format(content=message.content)
            if in_results:  # a user does not speak twice in a row
                turns[-1] = Message("user", f"{turns[-1].content}\n{result}")
            else:
                turns.append(Message("user", result))
        elif message.tool_calls:
            calls = [spell(call) for call in message.tool_calls]
            said = [message.content] if message.content else []
            turns.append(Message("assistant", "\n".join([*said, *calls])))
        else:
            turns.append(message)
        in_results = message.role == "tool"
    return _instructed(turns, tools) if tools else turns


def _instructed(turns: list[Message], tools: Sequence[Tool]) -> list[Message]:
    listed = "\n".join(json.dumps(described(tool), ensure_ascii=False) for tool in tools)
    text = INSTRUCTIONS.format(tools=listed)
    if turns and turns[0].role == "system":
        first = turns[0]
        return [Message("system", f"{first.content}\n\n{text}", first.name), *turns[1:]]
    return [Message("system", text), *turns]
