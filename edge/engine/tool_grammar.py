"""The grammar of an answer that may call tools, as text for llguidance. Pure.

A call is spelled as `edge/toolcalls.py` tells; between `arguments` and the end stands an object by
the tool's own schema. What stands before the first call is free, but with `required` nothing does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge.engine import grammar_limits
from edge.errors import InvalidRequest
from edge.toolcalls import BETWEEN, HEAD, TAIL, TRIGGER
from edge.types import Grammar, Tool, Tools

FREE = rf"""
open[suffix={json.dumps(TRIGGER)}]: /(?s:.*)/
text: TEXT
TEXT: /(?s:.*)/ & ~/(?s:.*){TRIGGER}(?s:.*)/
"""
"""A text that is none of a call's goes on as long as it does not spell the beginning of one; where
it does, the call has begun."""


def check(tools: Tools) -> None:
    """Raises `InvalidRequest` and `UnsupportedParameter`, which name the tool at fault; what is too
    much only for all of them together is `tools`."""
    schemas = []
    for tool in tools.callable:
        grammar_limits.check(Grammar("json_schema", tool.parameters), tool.param)
        schemas.append(tool.parameters)
    together = f'{{"anyOf":[{",".join(schemas)}]}}'
    grammar_limits.check(Grammar("json_schema", together), "tools")


def lark(tools: Tools, options: Mapping[str, Any], answer: Grammar | None = None) -> str:
    """The grammar of an answer. options: of llguidance, for how JSON is written.

    answer: what one that calls nothing has to follow. Raises `InvalidRequest`.
    """
    calls = tools.callable
    more = f"({_quoted(BETWEEN + TRIGGER)} call)*" if _several(tools) else ""
    begin, free = _quoted(TRIGGER), ""
    if tools.choice != "auto":
        start = f"{begin} call {more}"
    elif answer is None:
        start, free = f"text | open call {more}", FREE
    else:
        start, free = f"answer | {begin} call {more}", f"answer: %json {_schema(answer, options)}\n"
    names = " | ".join(f"call_{number}" for number in range(len(calls)))
    rules = [_rule(number, tool, options) for number, tool in enumerate(calls)]
    return f"start: {start}\n{free}call: ({names}) {_quoted(TAIL)}\n" + "".join(rules)


def _several(tools: Tools) -> bool:
    return tools.parallel and tools.choice != "named"


def _rule(number: int, tool: Tool, options: Mapping[str, Any]) -> str:
    head = _quoted(HEAD.format(name=tool.name))
    schema = json.dumps({**json.loads(tool.parameters), "x-guidance": dict(options)})
    return f"call_{number}: {head} arguments_{number}\narguments_{number}: %json {schema}\n"


def _schema(answer: Grammar, options: Mapping[str, Any]) -> str:
    if answer.kind not in ("json_object", "json_schema"):
        raise InvalidRequest(
            f"`response_format` {answer.kind} does not go together with `tools`",
            param="response_format",
        )
    schema = json.loads(answer.text) if answer.kind == "json_schema" else {"type": "object"}
    return json.dumps({**schema, "x-guidance": dict(options)})


def _quoted(text: str) -> str:
    return json.dumps(text)
