"""How a piece of an answer, and the whole of it, look in OpenAI's two older shapes.

`Chat` and `Completion` know only how an entry of `choices` looks; the flow around them is the same.
"""

from __future__ import annotations

from typing import Any, Protocol

from edge.openai import render
from edge.types import Delta, Finished, Request, TokenLogprob


class Shape(Protocol):
    """How one piece of answer number `index` looks, as an entry of `choices`."""

    id: str
    chunk_object: str
    whole_object: str

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]: ...

    def closing(self, index: int, finished: Finished) -> dict[str, Any]: ...

    def whole(
        self, index: int, text: str, logprobs: list[TokenLogprob], finished: Finished
    ) -> dict[str, Any]: ...


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
        return {
            "index": index,
            "delta": {"content": delta.text},
            "logprobs": render.chat_logprobs(delta.logprobs) if self.logprobs else None,
            "finish_reason": None,
        }

    def closing(self, index: int, finished: Finished) -> dict[str, Any]:
        reason = finished.reason
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def whole(
        self, index: int, text: str, logprobs: list[TokenLogprob], finished: Finished
    ) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": render.chat_logprobs(logprobs) if self.logprobs else None,
            "finish_reason": finished.reason,
        }


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

    def whole(
        self, index: int, text: str, logprobs: list[TokenLogprob], finished: Finished
    ) -> dict[str, Any]:
        return self._choice(index, text, logprobs, 0, finished.reason)

    def _choice(
        self, index: int, text: str, logprobs: list[TokenLogprob], offset: int, reason: str | None
    ) -> dict[str, Any]:
        listed = render.completion_logprobs(logprobs, offset) if self.logprobs else None
        return {"index": index, "text": text, "logprobs": listed, "finish_reason": reason}
