"""How a piece of an answer, and the whole of it, look in OpenAI's two older shapes.

`Chat` and `Completion` know only how an entry of `choices` looks; the flow around them is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from edge.openai import render
from edge.toolcalls import gather
from edge.types import CallPiece, Delta, Finished, Request, TokenLogprob, ToolCall


@dataclass
class Said:
    """All that came of one answer, but for its end."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def hear(self, delta: Delta) -> None:
        self.text += delta.text
        self.logprobs += delta.logprobs
        gather(self.calls, delta.calls)


class Shape(Protocol):
    """How one piece of answer number `index` looks, as an entry of `choices`."""

    id: str
    chunk_object: str
    whole_object: str

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]: ...

    def closing(self, index: int, finished: Finished) -> dict[str, Any]: ...

    def whole(self, index: int, said: Said, finished: Finished) -> dict[str, Any]: ...


class Chat:
    """Choices of /v1/chat/completions."""

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def __init__(self, request: Request) -> None:
        self.id = f"chatcmpl-{request.id}"
        self.logprobs = request.logprobs is not None

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]:
        new: dict[str, Any] = {}
        if delta.text or not delta.calls:
            new["content"] = delta.text
        if delta.calls:
            new["tool_calls"] = [call_piece(piece) for piece in delta.calls]
        return {
            "index": index,
            "delta": new,
            "logprobs": render.chat_logprobs(delta.logprobs) if self.logprobs else None,
            "finish_reason": None,
        }

    def closing(self, index: int, finished: Finished) -> dict[str, Any]:
        reason = finished.reason
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def whole(self, index: int, said: Said, finished: Finished) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
        if said.calls:
            message["content"] = said.text or None
            message["tool_calls"] = [_call(call) for call in said.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": render.chat_logprobs(said.logprobs) if self.logprobs else None,
            "finish_reason": finished.reason,
        }


def call_piece(piece: CallPiece) -> dict[str, Any]:
    """A piece of a call as a stream has it: with the first one come its id and its name."""
    function = {"arguments": piece.arguments}
    if not piece.id:
        return {"index": piece.index, "function": function}
    function = {"name": piece.name, **function}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


class Completion:
    """Choices of /v1/completions."""

    chunk_object = whole_object = "text_completion"

    def __init__(self, request: Request) -> None:
        self.id = f"cmpl-{request.id}"
        self.logprobs = request.logprobs is not None

    def opening(self, index: int) -> None:
        return None

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]:
        return self._choice(index, delta.text, delta.logprobs, offset, None)

    def closing(self, index: int, finished: Finished) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finished.reason}

    def whole(self, index: int, said: Said, finished: Finished) -> dict[str, Any]:
        return self._choice(index, said.text, said.logprobs, 0, finished.reason)

    def _choice(
        self, index: int, text: str, logprobs: list[TokenLogprob], offset: int, reason: str | None
    ) -> dict[str, Any]:
        listed = render.completion_logprobs(logprobs, offset) if self.logprobs else None
        return {"index": index, "text": text, "logprobs": listed, "finish_reason": reason}
