"""A Response as it comes: the typed events of OpenAI's streaming API, numbered in order.

https://platform.openai.com/docs/api-reference/responses-streaming tells their names and fields.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.openai.render import Answer, usage_body
from edge.openai.response import Response, message_item, output_message, text_part
from edge.types import Finished, Part


class ResponseEvents:
    """Server-sent events of one Response with one message; `response` is what has come so far."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._text = ""
        self._number = 0
        self._place = {
            "item_id": f"{message_item(response.id, 0, 'in_progress', [])['id']}",
            "output_index": 0,
            "content_index": 0,
        }

    def opening(self) -> bytes:
        self.response.status = "in_progress"
        item = message_item(self.response.id, 0, "in_progress", [])
        return (
            self._state("response.created")
            + self._state("response.in_progress")
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place, part=text_part(""))
        )

    def pieces(self, parts: list[Part]) -> bytes:
        data = b""
        for part in parts:
            event = part.event
            if isinstance(event, Finished):
                data += self._closing(event)
            elif event.text:
                self._text += event.text
                data += self._event(
                    "response.output_text.delta", **self._place, delta=event.text, logprobs=[]
                )
        return data

    def _closing(self, finished: Finished) -> bytes:
        choice = {"index": 0, "text": self._text, "finish_reason": finished.reason}
        response = self.response
        answer = Answer("", "", response.created_at, response.model, [choice])
        answer.usage = usage_body([finished.usage], 1)
        response.finish(answer)
        item, place = output_message(response.id, choice), self._place
        return (
            self._event("response.output_text.done", **place, text=self._text, logprobs=[])
            + self._event("response.content_part.done", **place, part=text_part(self._text))
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._state(f"response.{response.status}")
        )

    def _state(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
