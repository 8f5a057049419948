"""Load over HTTP: streams of one wave, each with the times of its tokens.

The client reads bare sockets, because on two cores a heavier one would measure itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass
class Stream:
    """When a request was sent, and when each piece of its answer came (seconds).

    prompt: how long the server says that it computed the prompt.
    """

    sent: float = 0.0
    pieces: list[float] = field(default_factory=list)
    text: str = ""
    prompt: float = 0.0
    done: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, count: int) -> None:
        """Wait until that many pieces have come."""
        while len(self.pieces) < count:
            self.grown.clear()
            await self.grown.wait()

    @property
    def first(self) -> float:
        return self.pieces[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.pieces, self.pieces[1:], strict=False)]


async def stream(
    port: int,
    prompt: str,
    tokens: int,
    result: Stream | None = None,
    *,
    key: str = "",
    **fields: Any,
) -> Stream:
    """One streamed chat completion; `result` can be watched while it comes. fields: of the body.

    Raises RuntimeError if it does not end with `[DONE]`.
    """
    result = result or Stream()
    body = msgspec.json.encode(
        {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            **fields,
        }
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"{f'Authorization: Bearer {key}' if key else 'X-None: 1'}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    result.sent = time.perf_counter()
    async for line in reader:
        if line.startswith((b'data: {"error"', b"HTTP/1.1 5")):
            raise RuntimeError(line.decode())
        if b'"delta":{"content"' in line:
            result.pieces.append(time.perf_counter())
            result.text += msgspec.json.decode(line[6:])["choices"][0]["delta"]["content"]
            result.grown.set()
        elif b'"timings"' in line:
            result.prompt = msgspec.json.decode(line[6:])["timings"]["prompt_ms"] / 1000
        elif line.startswith(b"data: [DONE]"):
            result.done = True
    writer.close()
    if not result.done:
        raise RuntimeError("a stream ended without [DONE]")
    return result


async def wave(port: int, prompts: Sequence[str], tokens: int) -> tuple[float, list[Stream]]:
    """All prompts at once; returns the seconds until the last is complete, and the streams."""
    began = time.perf_counter()
    streams = await asyncio.gather(*(stream(port, prompt, tokens) for prompt in prompts))
    return time.perf_counter() - began, list(streams)
