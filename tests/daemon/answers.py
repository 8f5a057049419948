"""Answers of a daemon, many at once, and the comparison of two that should be the same.

The same request gives the same text at temperature 0, with one exception: llama.cpp adds up
numbers in another order when the batch is another, and where two tokens are all but equally
likely that decides which one comes. Such a near tie is verified, and named in the message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from daemon_process import PATIENCE, DaemonProcess

NEAR_TIE = 0.25
"""Largest difference of log probabilities between two tokens that rounding may swap."""


@dataclass
class Answer:
    """What one streamed request has brought so far, choice by choice."""

    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    pieces: int = 0
    done: bool = False
    error: dict[str, Any] | None = None
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        return self.texts.get(0, "")


async def stream(url: str, body: dict[str, Any], answer: Answer) -> Answer:
    """Send one streamed request and follow it to its end."""
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("POST", url + "/v1/chat/completions", json={**body, "stream": True}) as reply,
    ):
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                answer.done = True
            elif line.startswith("data: "):
                _add(answer, json.loads(line[6:]))
    return answer


def _add(answer: Answer, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        answer.error = chunk["error"]
        return
    for choice in chunk["choices"]:
        index = choice["index"]
        text = choice["delta"].get("content") or ""
        answer.texts[index] = answer.texts.get(index, "") + text
        answer.pieces += bool(text)
        if choice["finish_reason"]:
            answer.reasons[index] = choice["finish_reason"]
    answer.grown.set()


async def wait_for_pieces(answers: Sequence[Answer], count: int) -> None:
    """Until each of the answers has that many pieces of text."""
    for answer in answers:
        while answer.pieces < count:
            answer.grown.clear()
            await asyncio.wait_for(answer.grown.wait(), PATIENCE)


def ask(daemon: DaemonProcess, body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer's first choice, with log probabilities."""
    reply = daemon.post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 5})
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def near_tie(reference: dict[str, Any], text: str) -> str | None:
    """None when `text` is the reference's; else the near tie at which they part.

    Fails the test when they part at anything else.
    """
    expected = reference["message"]["content"]
    if text == expected:
        return None
    at = 0
    for entry in reference["logprobs"]["content"]:
        token = entry["token"]
        if not text.startswith(token, at):
            for other in entry["top_logprobs"]:
                gap = entry["logprob"] - other["logprob"]
                if other["token"] != token and text.startswith(other["token"], at):
                    name = f"{token!r} and {other['token']!r} {gap:.3f} apart at {at}"
                    assert gap < NEAR_TIE, f"no near tie: {name}: {text!r}, not {expected!r}"
                    return name
            raise AssertionError(f"parts at {at} from {expected!r}: {text!r}")
        at += len(token)
    raise AssertionError(f"goes on after the end of {expected!r}: {text!r}")
