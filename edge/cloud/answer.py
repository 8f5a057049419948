"""What comes back: chunks of a stream, or a whole answer, of either of OpenAI's older APIs.

`Answer` is fed with JSON and gives text; it owns what is known so far of one answer. Pure: no
clock and no sockets. Raises `CallFailed` for what is no answer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.cloud.calls import Calls, Entry
from edge.cloud.failure import CallFailed, cut, garbage, of_event, told
from edge.cloud.key import Key
from edge.types import Alternative, CallPiece, FinishReason, TokenLogprob

DONE = b"[DONE]"

REASONS: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}
"""What servers call the ways to end. Any other is no end that we asked for."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Counts(msgspec.Struct):
    """The `usage` object."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Entry] | None = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Counts | None = None
    error: Any = None
    prompt_filter_results: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Piece(msgspec.Struct):
    """What one chunk added."""

    text: str
    logprobs: list[TokenLogprob]
    calls: list[CallPiece] = []


class Answer:
    """One answer of upstream `name` as it comes. key: to be masked in what is shown of errors.

    tools: names of those that it may call.
    """

    def __init__(self, name: str, key: Key, tools: frozenset[str] = frozenset()) -> None:
        self.name = name
        self.key = key
        self.reason: FinishReason | None = None
        self.counts: Counts | None = None
        self.pieces = 0
        self.done = False
        self._calls = Calls(tools)

    @property
    def completion_tokens(self) -> int:
        """As the upstream counts them, else the pieces in which they came."""
        told = self.counts.completion_tokens if self.counts else None
        return self.pieces if told is None else told

    def event(self, data: bytes) -> Piece | None:
        """One event of a stream; None when it brought no text."""
        if data.strip() == DONE:
            self.done = True
            if self.reason is None:
                raise CallFailed(cut(self.name, "[DONE] came before a finish_reason"))
            return None
        return self._chunk(data)

    def whole(self, data: bytes) -> Piece | None:
        """An answer in one piece."""
        piece = self._chunk(data)
        self.end()
        return piece

    def end(self) -> None:
        """No more will come."""
        if self.reason is None:
            raise CallFailed(cut(self.name, "it ended without a finish_reason"))

    def _chunk(self, data: bytes) -> Piece | None:
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CallFailed(garbage(self.name, "broken JSON, or JSON of another kind")) from None
        if chunk.error is not None:
            words = told({"error": chunk.error})
            words.message = self.key.mask(words.message)
            raise CallFailed(of_event(self.name, words))
        if chunk.usage is not None:
            self.counts = chunk.usage
        if not chunk.choices:
            # The chunk with the usage has none, nor has the first one of Azure.
            if chunk.usage is None and chunk.prompt_filter_results is None:
                raise CallFailed(garbage(self.name, "a list of no choices"))
            return None
        return self._choice(chunk.choices[0])

    def _choice(self, choice: _Choice) -> Piece | None:
        message = choice.delta or choice.message or _Message()
        if message.function_call is not None:
            raise CallFailed(garbage(self.name, "a call in a form that nobody asked for"))
        try:
            calls = self._calls.hear(message.tool_calls or [])
            if choice.finish_reason:
                self.reason = self._reason(choice.finish_reason)
                if self.reason == "tool_calls":
                    calls += self._calls.end()
        except ValueError as error:
            self.reason = None
            raise CallFailed(garbage(self.name, str(error))) from None
        text = message.content or message.refusal or choice.text or ""
        listed = logprobs(choice.logprobs) if choice.logprobs else []
        if not (text or listed or calls):
            return None
        self.pieces += bool(text or calls)
        return Piece(text, listed, calls)

    def _reason(self, told: str) -> FinishReason:
        """Some say `stop` where they have called something. Raises ValueError."""
        reason = REASONS.get(told)
        if reason == "stop" and self._calls.calls:
            return "tool_calls"
        if reason is None or (reason == "tool_calls" and not self._calls.calls):
            raise ValueError(f"an end for the reason `{self.key.mask(told)}`")
        return reason


def logprobs(body: dict[str, Any]) -> list[TokenLogprob]:
    """The `logprobs` object of a choice in either shape; what is malformed is left out."""
    try:
        if body.get("content") is not None:
            return [
                TokenLogprob(
                    _alternative(e), [_alternative(a) for a in e.get("top_logprobs") or []]
                )
                for e in body["content"]
            ]
        tokens, values = body.get("tokens") or [], body.get("token_logprobs") or []
        tops = body.get("top_logprobs") or [None] * len(tokens)
        return [
            TokenLogprob(_of_text(token, value), [_of_text(t, v) for t, v in (top or {}).items()])
            for token, value, top in zip(tokens, values, tops, strict=False)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def _alternative(entry: dict[str, Any]) -> Alternative:
    raw = entry.get("bytes")
    spelled = str(entry["token"]).encode() if raw is None else bytes(raw)
    return Alternative(-1, spelled, float(entry["logprob"]))


def _of_text(token: str, value: float | None) -> Alternative:
    # The first token of an echoed prompt has none.
    return Alternative(-1, token.encode(), 0.0 if value is None else float(value))
