"""The tool calls of one answer, in whichever of the usual ways an upstream tells them. Pure.

OpenAI's way is an index in every piece, and id and name in the first. Others send calls whole,
without an index or all with the same, with the name again in each piece, without an id, or with no
arguments for none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.toolcalls import gather, new_call_id
from edge.types import CallPiece, ToolCall


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class Entry(msgspec.Struct):
    """One of `tool_calls`, in a stream or in a whole answer."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class Calls:
    """Raises ValueError, with the reason, for what cannot be a call of an offered tool."""

    def __init__(self, names: frozenset[str]) -> None:
        self.calls: list[ToolCall] = []
        self._names = names
        self._places: dict[int | str, int] = {}  # by the upstream's index, or else by its id
        self._ids: list[str | None] = []

    def hear(self, entries: list[Entry]) -> list[CallPiece]:
        pieces = [piece for entry in entries for piece in self._pieces(entry)]
        gather(self.calls, pieces)
        return pieces

    def end(self) -> list[CallPiece]:
        """What is missing where an upstream sends nothing for no arguments; all of them are whole
        then, and objects."""
        missing = [
            CallPiece(at, arguments="{}")
            for at, call in enumerate(self.calls)
            if not call.arguments.strip()
        ]
        gather(self.calls, missing)
        for call in self.calls:
            try:
                value = msgspec.json.decode(call.arguments)
            except (msgspec.DecodeError, RecursionError):
                raise ValueError(f"a call of `{call.name}` with broken JSON") from None
            if not isinstance(value, dict):
                raise ValueError(f"a call of `{call.name}` with arguments that are no object")
        return missing

    def _pieces(self, entry: Entry) -> list[CallPiece]:
        function = entry.function or _Function()
        arguments = function.arguments or ""
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        pieces = []
        at = self._place(entry)
        if at is None:
            at = self._begin(entry, function.name)
            pieces.append(CallPiece(at, entry.id or new_call_id(), function.name or ""))
        if arguments:
            pieces.append(CallPiece(at, arguments=arguments))
        return pieces

    def _place(self, entry: Entry) -> int | None:
        """Which of the calls so far it is more of; None for a new one."""
        named = entry.function is not None and bool(entry.function.name)
        if entry.index is not None:
            at = self._places.get(entry.index)
            another = at is not None and named and entry.id not in (None, "", self._ids[at])
            return None if another else at
        if entry.id:
            return self._places.get(entry.id)
        return len(self._ids) - 1 if self._ids and not named else None

    def _begin(self, entry: Entry, name: str | None) -> int:
        if not name:
            raise ValueError("a tool call without a name")
        if name not in self._names:
            raise ValueError("the call of a tool that nobody offered")
        at = len(self._ids)
        self._ids.append(entry.id)
        if entry.index is not None:
            self._places[entry.index] = at
        elif entry.id:
            self._places[entry.id] = at
        return at
