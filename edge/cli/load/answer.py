"""One request's fate: when its pieces came, what it cost, and why it is no answer if it is none.

An answer counts only if the server finished it: a stream needs a `finish_reason` and `[DONE]`, a
whole body a `finish_reason`, and either has to hold something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import msgspec

from edge.cli.client import Usage
from edge.cli.load.workloads import Report

LONGEST_LINE = 4_000_000
"""Bytes of a line of a stream; more is no answer of a language model."""

Clock = Callable[[], float]
"""Seconds since the run began."""


class Answer(msgspec.Struct):
    """All times in seconds since the run began.

    intended: when it was due; the latencies count from here, so that a late start is not hidden.
    pieces: when each piece of text arrived. error: a code, None for a whole answer. valid: whether
    a structured answer has the form that was asked for.
    """

    group: str
    intended: float
    sent: float
    ended: float = 0.0
    pieces: list[float] = []
    streamed: bool = True
    error: str | None = None
    message: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    valid: bool | None = None

    @property
    def first_token(self) -> float | None:
        """None where the answer came in one piece, or without text."""
        return self.pieces[0] - self.intended if self.streamed and self.pieces else None

    @property
    def latency(self) -> float:
        return self.ended - self.intended

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in pairwise(self.pieces)]


class NoAnswer(Exception):
    """What came cannot be counted. code: what the failures are grouped by."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Words(msgspec.Struct):
    """A delta, or a message. Models that think aloud do so in one of the other two fields."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        return self.content or self.reasoning_content or self.reasoning or ""


class Choice(msgspec.Struct):
    delta: Words | None = None
    message: Words | None = None
    finish_reason: str | None = None


class Body(msgspec.Struct):
    """A chunk of a stream, or a whole chat completion."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    model: str | None = None


class Reader:
    """Puts what arrives into an `Answer`; `finish` says whether it is one."""

    def __init__(self, answer: Answer, clock: Clock) -> None:
        self.answer = answer
        self._clock = clock
        self._text: list[str] = []
        self._rest = b""
        self._event = b""
        self._done = False

    def feed(self, some: bytes) -> None:
        """Bytes of a stream. Raises `NoAnswer`."""
        now = self._clock()
        for line in self._lines(some):
            name, _, value = line.partition(b":")
            value = value.strip()
            if not line:
                self._event = b""
            elif name == b"event":
                self._event = value
            elif name == b"data" and not self._done:
                self._done = value == b"[DONE]"
                if not self._done:
                    self._take(value, now)
                self.answer.ended = now

    def whole(self, body: bytes) -> None:
        """A body that did not come as a stream. Raises `NoAnswer`."""
        self.answer.streamed = False
        self._done = True
        self._take(body, self._clock())

    def finish(self, structured: bool) -> None:
        """Nothing more comes. Raises `NoAnswer` unless the answer is whole."""
        if not self._done:
            raise NoAnswer("cut", "the stream ended without [DONE]")
        if self.answer.finish_reason is None:
            raise NoAnswer("no_finish_reason", "the answer has no finish_reason")
        if self.answer.finish_reason == "content_filter":
            raise NoAnswer("content_filter", "the server's filter cut the answer")
        if not self._text and not self.answer.completion_tokens:
            raise NoAnswer("empty_answer", "the answer has no text")
        if structured:
            self.answer.valid = _is_report("".join(self._text))

    def _lines(self, some: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + some).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise NoAnswer("bad_answer", f"a line of more than {LONGEST_LINE} bytes")
        yield from (line.rstrip(b"\r") for line in lines)

    def _take(self, data: bytes, now: float) -> None:
        try:
            body = msgspec.json.decode(data, type=Body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if self._event == b"error":
                raise failure(data, "stream_error") from None
            raise NoAnswer("bad_answer", f"what came cannot be read: {error}") from None
        if body.error is not None or self._event == b"error":
            raise failure(data, "stream_error")
        self.answer.model = body.model or self.answer.model
        for choice in body.choices or []:
            words = choice.delta or choice.message
            if words and words.text:
                self.answer.pieces.append(now)
                self._text.append(words.text)
            self.answer.finish_reason = choice.finish_reason or self.answer.finish_reason
        if body.usage is not None:
            self._count(body.usage)

    def _count(self, usage: Usage) -> None:
        # Some servers send it with every chunk: the last one is that of the whole answer.
        self.answer.prompt_tokens = usage.prompt_tokens
        self.answer.completion_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            self.answer.cached_tokens = usage.prompt_tokens_details.cached_tokens


def failure(data: bytes, otherwise: str) -> NoAnswer:
    """The error in a body, however the server shapes it; `otherwise` is the code if it has none."""
    try:
        found: Any = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = None
    if isinstance(found, dict):
        found = found.get("error", found)
    if not isinstance(found, dict):
        return NoAnswer(otherwise, found if isinstance(found, str) else "no error that can be read")
    named = (found.get(key) for key in ("code", "type"))
    code = next((name for name in named if isinstance(name, str) and name), otherwise)
    return NoAnswer(code, str(found.get("message") or code))


def _is_report(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=Report)
    except msgspec.MsgspecError:
        return False
    return True
