"""A Response as it comes: the typed events of OpenAI's streaming API, numbered in order.

https://platform.openai.com/docs/api-reference/responses-streaming tells their names and fields.
Each item of the output, a message or a call, is opened, filled and closed before the next.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.openai.render import Answer, origin, usage_body
from edge.openai.response import Response, call_item, message_item, text_part
from edge.types import CallPiece, Finished, Part, Trail


class ResponseEvents:
    """Server-sent events of one Response with one answer; `response` is what has come so far.
    trail: tells at its end where it came from."""

    def __init__(self, response: Response, trail: Trail) -> None:
        self.response = response
        self.trail = trail
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open = False  # the last item is not closed

    def opening(self) -> bytes:
        self.response.status = "in_progress"
        return self._state("response.created") + self._state("response.in_progress")

    def pieces(self, parts: list[Part]) -> bytes:
        data = b""
        for part in parts:
            event = part.event
            if isinstance(event, Finished):
                data += self._closing(event)
                continue
            if event.text:
                data += self._text(event.text)
            for piece in event.calls:
                data += self._call(piece)
        return data

    @property
    def _place(self) -> dict[str, Any]:
        """Of the item that is open."""
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _text(self, text: str) -> bytes:
        data = b""
        if not (self._open and self._items[-1]["type"] == "message"):
            data = self._close("completed") + self._open_message()
        self._items[-1]["content"][0]["text"] += text
        place = {**self._place, "content_index": 0}
        return data + self._event("response.output_text.delta", **place, delta=text, logprobs=[])

    def _call(self, piece: CallPiece) -> bytes:
        data = b""
        if piece.id:
            item = call_item(piece.id, piece.name, "", "in_progress")
            data = self._close("completed") + self._open_item(item)
        if piece.arguments:
            self._items[-1]["arguments"] += piece.arguments
            kind = "response.function_call_arguments.delta"
            data += self._event(kind, **self._place, delta=piece.arguments)
        return data

    def _open_message(self) -> bytes:
        number = sum(item["type"] == "message" for item in self._items)
        item = message_item(self.response.id, number, "in_progress", [])
        added = self._open_item(item)
        place = {**self._place, "content_index": 0}
        added += self._event("response.content_part.added", **place, part=text_part(""))
        item["content"] = [text_part("")]
        return added

    def _open_item(self, item: dict[str, Any]) -> bytes:
        self._items.append(item)
        self._open = True
        at = len(self._items) - 1
        return self._event("response.output_item.added", output_index=at, item=item)

    def _close(self, status: str) -> bytes:
        """The item that is open, if any."""
        if not self._open:
            return b""
        self._open = False
        item, place = self._items[-1], self._place
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            place["content_index"] = 0
            data = self._event(
                "response.output_text.done", **place, text=part["text"], logprobs=[]
            ) + self._event("response.content_part.done", **place, part=part)
        else:
            kind = "response.function_call_arguments.done"
            fields = {"name": item["name"], "arguments": item["arguments"]}
            data = self._event(kind, **place, **fields)
        at = len(self._items) - 1
        return data + self._event("response.output_item.done", output_index=at, item=item)

    def _closing(self, finished: Finished) -> bytes:
        data = b"" if self._items else self._open_message()
        response = self.response
        choice = {"index": 0, "text": "", "finish_reason": finished.reason}
        answer = Answer("", "", response.created_at, response.model, [choice])
        answer.usage = usage_body([finished.usage], 1)
        answer.edge = origin(self.trail, [finished.usage])
        response.finish(answer)
        data += self._close(response.status)
        response.output = self._items
        return data + self._state(f"response.{response.status}")

    def _state(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
