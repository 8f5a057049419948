"""Streams of the real daemon as a client hears them, and what two of them may differ in.

At temperature 0 the same request gives the same text, but for near ties: the numbers that a
sequence is computed to depend a little on what else is in the batch, and where two tokens are
about equally likely the other one may win. Every difference has to be shown to be such a place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from daemon_process import DaemonProcess

NEAR = 0.25
"""Difference of log probabilities up to which batch effects may swap two tokens."""


@dataclass
class Token:
    """A token as `logprobs` tells of it, with the likeliest others by their text."""

    text: str
    logprob: float
    others: dict[str, float]


@dataclass
class Heard:
    """What came in one stream so far, of one choice."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    reason: str | None = None


@dataclass
class Stream:
    """One request; `choices` fill while it runs."""

    choices: list[Heard]
    done: bool = False
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None

    @property
    def first(self) -> Heard:
        return self.choices[0]

    def progressed(self, tokens: int) -> bool:
        return all(len(heard.tokens) >= tokens for heard in self.choices)


def body_for(prompt: str, **fields: Any) -> dict[str, Any]:
    """A text to go on with, and what the comparison needs: greedy, of a fixed length, with
    alternatives. Short, because many of these run at once."""
    return {
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": 20,
        "ignore_eos": True,
        "logprobs": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }


def hear(daemon: DaemonProcess, body: dict[str, Any], stream: Stream) -> None:
    """Send the request and read to the end of its stream."""
    url = f"{daemon.url}/v1/completions"
    with daemon.http.stream("POST", url, json=body) as answer:
        if answer.status_code != 200:
            stream.error = json.loads(answer.read())["error"]
            return
        for line in answer.iter_lines():
            if line:
                _take(stream, line.removeprefix("data: "))


def _take(stream: Stream, data: str) -> None:
    assert not stream.done, f"after [DONE]: {data}"
    assert stream.error is None, f"after an error: {data}"
    if data == "[DONE]":
        stream.done = True
        return
    chunk = json.loads(data)
    if "error" in chunk:
        stream.error = chunk["error"]
        return
    stream.usage = chunk.get("usage") or stream.usage
    for choice in chunk["choices"]:
        heard = stream.choices[choice["index"]]
        heard.text += choice["text"]
        heard.tokens += tokens_of(choice["logprobs"])
        heard.reason = choice["finish_reason"] or heard.reason


def tokens_of(logprobs: dict[str, Any] | None) -> list[Token]:
    """The entries of a completion's `logprobs` object, one for each token."""
    if logprobs is None:
        return []
    names = ("tokens", "token_logprobs", "top_logprobs")
    return [Token(*entry) for entry in zip(*(logprobs[name] for name in names), strict=True)]


@contextmanager
def streaming(daemon: DaemonProcess, bodies: list[dict[str, Any]]) -> Iterator[list[Stream]]:
    """All requests at once; leaves when every stream has ended."""
    streams = [Stream([Heard() for _ in range(body.get("n", 1))]) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        pending: list[Future[None]] = [
            pool.submit(hear, daemon, body, stream)
            for body, stream in zip(bodies, streams, strict=True)
        ]
        yield streams
        for future in pending:
            future.result()


def run_streams(daemon: DaemonProcess, bodies: list[dict[str, Any]]) -> list[Stream]:
    """All requests at once, to their ends."""
    with streaming(daemon, bodies) as streams:
        pass
    return streams


def run_one_by_one(daemon: DaemonProcess, bodies: list[dict[str, Any]]) -> list[Stream]:
    return [stream for body in bodies for stream in run_streams(daemon, [body])]


def check_complete(stream: Stream, body: dict[str, Any]) -> None:
    """Ended as it should, with as many tokens as asked for: none lost, none twice."""
    assert stream.error is None
    assert stream.done
    for heard in stream.choices:
        assert heard.reason == "length"
        assert len(heard.tokens) == body["max_tokens"]
        assert heard.text == "".join(token.text for token in heard.tokens)
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == body["max_tokens"] * len(stream.choices)


def check_same(expected: Heard, heard: Heard, report: Callable[[str], None] = print) -> None:
    """The same tokens, up to a near tie, which is reported."""
    for at, (wanted, got) in enumerate(zip(expected.tokens, heard.tokens, strict=False)):
        if wanted.text == got.text:
            continue
        gap = min(_gap(wanted, got), _gap(got, wanted))
        before = "".join(token.text for token in expected.tokens[:at])
        what = f"token {at}: {wanted.text!r} became {got.text!r}, {gap:.3f} apart, after {before!r}"
        assert gap <= NEAR, f"no near tie: {what}"
        report(f"near tie at {what}")
        return
    assert heard.text == expected.text


def _gap(token: Token, other: Token) -> float:
    """How far the other token was behind the chosen one; endless if it was not even near."""
    return abs(token.logprob - token.others.get(other.text, float("-inf")))
