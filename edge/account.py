"""What is to be told of one request at its end: to the metrics, to headquarters, to the audit log.

Owned by the event loop.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict

from edge.access.meter import key_of
from edge.access.visitor import ANYBODY
from edge.audit.event import Event
from edge.metrics import Metrics
from edge.sync.reporter import Record
from edge.tensors import Inference, Inferred, PairWork, PictureWork, Scores, TextWork, Vectors
from edge.toolcalls import gather, spell
from edge.types import ChatPrompt, Finished, Part, Request, ToolCall, Trail, Usage


class Account:
    """Of one request to generate."""

    def __init__(self, metrics: Metrics, request: Request) -> None:
        self.metrics = metrics
        self.request = request
        self.began = self.last_at = time.monotonic()
        self.seen_text = False
        self.texts: defaultdict[int, str] = defaultdict(str)
        self.calls: defaultdict[int, list[ToolCall]] = defaultdict(list)
        self.usages: list[Usage] = []

    def hear(self, parts: list[Part]) -> None:
        for part in parts:
            if isinstance(part.event, Finished):
                self.usages.append(part.event.usage)
            else:
                self.texts[part.index] += part.event.text
                gather(self.calls[part.index], part.event.calls)
                self._measure()

    @property
    def answers(self) -> list[str]:
        """In their order, calls spelled out behind the text."""
        return [
            self.texts[index] + "".join(map(spell, self.calls[index]))
            for index in sorted(self.texts)
        ]

    def end(self, door: str, trail: Trail, status: str) -> None:
        self.metrics.requests.labels(door, trail.route, status).inc()
        self.metrics.request_seconds.observe(time.monotonic() - self.began)

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompts, and of answers."""
        return (
            sum(usage.prompt_tokens for usage in self.usages),
            sum(usage.completion_tokens for usage in self.usages),
        )

    def record(self, door: str, trail: Trail, status: str) -> Record:
        return Record(
            id=self.request.id,
            time=time.time(),
            door=door,
            route=trail.route,
            model=trail.model,
            status=status,
            seconds=round(time.monotonic() - self.began, 3),
            prompt_tokens=self.tokens[0],
            cached_tokens=sum(usage.cached_tokens for usage in self.usages),
            completion_tokens=self.tokens[1],
            attempts=trail.attempts,
        )

    def event(self, door: str, trail: Trail, status: str) -> Event:
        request, tokens = self.request, self.tokens
        chat = bool(request.prompts) and isinstance(request.prompts[0], ChatPrompt)
        return Event(
            what="chat" if chat else "completion",
            who=key_of(request.caller) or ANYBODY,
            door=door,
            id=request.id,
            model=request.model or "",
            answered_by=trail.model,
            route=trail.route,
            status=status,
            seconds=round(time.monotonic() - self.began, 3),
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
        )

    def said(self) -> dict[str, object]:
        """For the audit log, where that is kept."""
        return {"prompts": self.request.prompts, "answers": self.answers}

    def _measure(self) -> None:
        now = time.monotonic()
        if not self.seen_text:
            self.seen_text = True
            self.metrics.first_token.observe(now - self.began)
        elif self.request.answers == 1:
            self.metrics.inter_token.observe(now - self.last_at)
        self.last_at = now


def event_of(
    inference: Inference, inferred: Inferred | None, door: str, status: str, seconds: float
) -> Event:
    kinds = {TextWork: "embed", PairWork: "rerank", PictureWork: "look"}
    result = None if inferred is None else inferred.result
    return Event(
        what=kinds.get(type(inference.work), "infer"),
        who=key_of(inference.caller) or ANYBODY,
        door=door,
        id=inference.id,
        model=inference.model,
        answered_by="" if inferred is None else inferred.model,
        route="local",
        status=status,
        seconds=round(seconds, 3),
        prompt_tokens=result.tokens if isinstance(result, (Vectors, Scores)) else 0,
    )


def said_in(inference: Inference) -> object:
    """For the audit log: texts as they are, of pictures and tensors their digest."""
    work = inference.work
    if isinstance(work, (TextWork, PairWork)):
        return work
    pieces = [work.data] if isinstance(work, PictureWork) else [one.data for one in work.inputs]
    return {"sha256": [hashlib.sha256(piece).hexdigest() for piece in pieces]}
