"""How a model's text spells calls of tools, and how they are read out of it as it comes.

    <tool_call>
    {"name": "lookup", "arguments": {"part":"B7"}}
    </tool_call>

This is the form of the Hermes and Qwen models, and models that know none are told it. A grammar
(`engine/tool_grammar.py`) sees to it that a model here keeps to it to the letter, but for JSON's
own freedom inside the arguments. Each `CallReader` belongs to one answer.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from edge.types import CallPiece, FinishReason, ToolCall

TRIGGER = "<tool_call>"
HEAD = '\n{{"name": "{name}", "arguments": '
TAIL = "}\n</tool_call>"
BETWEEN = "\n"

_HEAD = re.compile(r'\n\{"name": "([^"]*)", "arguments": ')
_STRUCTURE = re.compile(r'["\\{}\[\]]')


def spell(call: ToolCall) -> str:
    """A call as the text that a model makes it with."""
    return TRIGGER + HEAD.format(name=call.name) + call.arguments + TAIL


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def gather(calls: list[ToolCall], pieces: Iterable[CallPiece]) -> None:
    """Add the pieces that have come to the calls so far."""
    for piece in pieces:
        if piece.index == len(calls):
            calls.append(ToolCall(piece.id, piece.name, ""))
        calls[piece.index].arguments += piece.arguments


def whole_calls(pieces: Iterable[CallPiece]) -> list[CallPiece]:
    """The same calls in as few pieces as there can be."""
    calls: list[ToolCall] = []
    gather(calls, pieces)
    return [
        piece
        for index, call in enumerate(calls)
        for piece in (
            CallPiece(index, call.id, call.name),
            CallPiece(index, "", "", call.arguments),
        )
    ]


class CallReader:
    """`feed` it a model's text, get the text that is none of a call's, and pieces of calls.

    What may still become a call is held back, and so are blanks, which before a call are nobody's.
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = False  # of a call, its arguments not yet begun
        self._object: _Object | None = None  # the arguments that come now
        self._count = 0
        self._whole = 0

    def feed(self, text: str) -> tuple[str, list[CallPiece]]:
        self._held += text
        said, calls = "", []
        while True:
            before = self._held
            if self._object is not None:
                calls += self._arguments(self._object)
            elif self._inside:
                calls += self._head()
            else:
                said += self._text()
            if self._held == before or not self._held:
                return said, calls

    def finish(self, reason: FinishReason) -> tuple[str, FinishReason]:
        """No more will come: the text that was held back after all, and the reason to end for.

        A call that was cut before its arguments began is none.
        """
        between = self._object is None and not self._inside and self._count == 0
        text = self._held if between else ""
        if reason == "stop" and self._count and self._whole == self._count:
            return text, "tool_calls"
        return text, reason

    def _text(self) -> str:
        """Up to a call. Behind one, nothing but blanks stands before the next."""
        at = self._held.find(TRIGGER)
        if at >= 0:
            said, self._held = self._held[:at].rstrip(), self._held[at + len(TRIGGER) :]
            self._inside = True
        else:
            end = _may_begin(self._held)
            said, self._held = self._held[:end], self._held[end:]
        return "" if self._count else said

    def _head(self) -> list[CallPiece]:
        found = _HEAD.match(self._held)
        if found is None:
            return []
        self._held = self._held[found.end() :]
        self._inside, self._object = False, _Object()
        self._count += 1
        return [CallPiece(self._count - 1, new_call_id(), found[1])]

    def _arguments(self, object_: _Object) -> list[CallPiece]:
        if object_.ended:
            if self._held.startswith(TAIL):
                self._held = self._held[len(TAIL) :]
                self._object = None
            return []
        end = object_.look(self._held)
        some, self._held = self._held[:end], self._held[end:]
        self._whole += object_.ended
        return [CallPiece(self._count - 1, arguments=some)] if some else []


class _Object:
    """How far a JSON object has come."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def look(self, text: str) -> int:
        """Where in this next piece of it the object ends; the piece's length if it does not."""
        at = 0
        if self._escaped and text:  # by a backslash at the end of the piece before
            at, self._escaped = 1, False
        while found := _STRUCTURE.search(text, at):
            at = found.end()
            mark = found[0]
            if self._in_string:
                if mark == "\\":
                    self._escaped = at == len(text)
                    at += 1
                elif mark == '"':
                    self._in_string = False
            elif mark == '"':
                self._in_string = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return at
        return len(text)


def _may_begin(text: str) -> int:
    """Where blanks, or a call, or blanks before a call may begin at the end of a text."""
    end = len(text)
    for size in range(min(len(TRIGGER) - 1, end), 0, -1):
        if text.endswith(TRIGGER[:size]):
            end -= size
            break
    return len(text[:end].rstrip())
