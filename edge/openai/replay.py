"""A whole answer that was kept, as the pieces it came in: one for each text, and its end.

So that what was answered once can be streamed to whoever asks again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from edge.openai.render import Answer
from edge.types import (
    Alternative,
    CallPiece,
    Delta,
    Energy,
    Finished,
    Part,
    TokenLogprob,
    Trail,
    Usage,
)

NO_USAGE = Usage(0, 0, 0, 0.0, 0.0)


def decode_answer(result: bytes) -> Answer:
    return msgspec.json.decode(result, type=Answer)


def trail_of(answer: Answer) -> Trail:
    if not answer.edge:
        return Trail(model=answer.model)
    return Trail(answer.edge.route, answer.edge.model, answer.edge.attempts)


def parts_of(answer: Answer) -> list[Part]:
    """The usage of all answers comes with the first: there is no telling them apart any more."""
    parts: list[Part] = []
    for choice in answer.choices:
        index = choice["index"]
        message = choice.get("message")
        text = (message["content"] or "") if message else choice["text"]
        logprobs = [*_logprobs(choice.get("logprobs") or {})]
        usage = _usage(answer) if index == 0 else _nothing(answer)
        calls = [*_calls(message or {})]
        parts.append(Part(index, Delta("", [], text, logprobs, calls)))
        parts.append(Part(index, Finished("", choice["finish_reason"], usage)))
    return parts


def _calls(message: dict[str, Any]) -> Iterator[CallPiece]:
    """Each as one that begins and one that brings all of its arguments."""
    for index, call in enumerate(message.get("tool_calls") or []):
        function = call["function"]
        yield CallPiece(index, call["id"], function["name"])
        yield CallPiece(index, arguments=function["arguments"])


def _usage(answer: Answer) -> Usage:
    usage, timings = answer.usage, answer.timings
    if not usage:
        return NO_USAGE
    seconds = (timings.prompt_ms / 1000, timings.predicted_ms / 1000) if timings else (0.0, 0.0)
    return Usage(
        usage.prompt_tokens,
        usage.prompt_tokens_details.cached_tokens,
        usage.completion_tokens,
        *seconds,
        energy=_energy(answer),
    )


def _nothing(answer: Answer) -> Usage:
    energy = _energy(answer)
    return msgspec.structs.replace(NO_USAGE, energy=energy.times(0) if energy else None)


def _energy(answer: Answer) -> Energy | None:
    return answer.edge.energy if answer.edge else None


def _logprobs(listed: dict[str, Any]) -> Iterator[TokenLogprob]:
    """From a chat's shape or from the older one of completions, which tells no bytes."""
    for entry in listed.get("content") or []:
        yield TokenLogprob(_chat(entry), [_chat(one) for one in entry["top_logprobs"]])
    if "tokens" in listed:
        columns = (listed["tokens"], listed["token_logprobs"], listed["top_logprobs"])
        for token, logprob, top in zip(*columns, strict=True):
            yield TokenLogprob(_text(token, logprob), [_text(t, p) for t, p in top.items()])


def _chat(entry: dict[str, Any]) -> Alternative:
    return Alternative(-1, bytes(entry["bytes"]), entry["logprob"])


def _text(token: str, logprob: float) -> Alternative:
    return Alternative(-1, token.encode(), logprob)
