"""Batches through the official SDK: files up, the batch to its end, answers down."""

from __future__ import annotations

import json
from typing import Any

from daemon_process import poll
from openai import OpenAI


def jsonl(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def upload(client: OpenAI, content: bytes | list[Any]) -> Any:
    data = content if isinstance(content, bytes) else jsonl(content)
    return client.files.create(file=("input.jsonl", data), purpose="batch")


def create(
    client: OpenAI, lines: bytes | list[Any], endpoint: Any = "/v1/completions", **more: Any
) -> Any:
    file = upload(client, lines)
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


def wait(client: OpenAI, batch: Any, *statuses: str) -> Any:
    """Poll until it has one of these statuses, or has ended if none is named."""
    ends = statuses or ("completed", "failed", "expired", "cancelled")
    return poll(
        lambda: (now := client.batches.retrieve(batch.id)).status in ends and now, str(ends)
    )


def read(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output; none where there is no such file."""
    if file_id is None:
        return []
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]
