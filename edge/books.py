"""What is told of a request at its end, and to whom: metrics, the keys' meter, headquarters, the
audit log.

Owned by the event loop.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from functools import reduce

from edge.access.meter import Meter, key_of
from edge.access.visitor import ANYBODY
from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.energy.accountant import Accountant, Bill
from edge.metrics import Metrics
from edge.sync.reporter import Record, Reporter
from edge.tensors import Inference, Inferred, PairWork, PictureWork, Scores, TextWork, Vectors
from edge.toolcalls import gather, spell
from edge.types import ChatPrompt, Energy, Finished, Part, Request, ToolCall, Trail, Usage


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
            energy_joules=self._energy(trail),
            attempts=trail.attempts,
        )

    def _energy(self, trail: Trail) -> float | None:
        """Joules, as its answer told."""
        if trail.route == "cache":
            return 0.0
        spent = [usage.energy or Energy() for usage in self.usages]
        whole = reduce(Energy.plus, spent) if spent else Energy()
        return whole.joules

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


class Books:
    """meter: of the tokens that each key used. reporter: hears of all that was answered. audit: is
    told of every request. None for those that nobody keeps. energy: who has used how much."""

    def __init__(
        self,
        metrics: Metrics,
        meter: Meter | None = None,
        reporter: Reporter | None = None,
        audit: Audit | None = None,
        energy: Accountant | None = None,
    ) -> None:
        self.metrics = metrics
        self.audit = audit
        self.energy = energy or Accountant()
        self.energy.credited, self.energy.ended = self._charge_energy, self._measure_energy
        self._meter = meter
        self._reporter = reporter

    def close(self, account: Account, door: str, trail: Trail, status: str) -> None:
        request = account.request
        self._count(door, trail.route, status, time.monotonic() - account.began)
        self._charge(request.caller, *account.tokens)
        if status != "ok" and request.kept:
            # It comes again; its end is the one that counts.
            return
        if self._reporter is not None:
            record = account.record(door, trail, status)
            self._reporter.note(record, request, account.answers)
        if self.audit is not None:
            self.audit.note(account.event(door, trail, status), account.said)

    def close_inference(
        self,
        inference: Inference,
        inferred: Inferred | None,
        door: str,
        status: str,
        seconds: float,
    ) -> None:
        self._count(door, "local", status, seconds)
        result = None if inferred is None else inferred.result
        if isinstance(result, (Vectors, Scores)):
            self._charge(inference.caller, result.tokens, 0)
        if self.audit is not None and (status == "ok" or not inference.kept):
            event = event_of(inference, inferred, door, status, seconds)
            self.audit.note(event, lambda: said_in(inference))

    def _count(self, door: str, route: str, status: str, seconds: float) -> None:
        self.metrics.requests.labels(door, route, status).inc()
        self.metrics.request_seconds.observe(seconds)

    def _charge(self, caller: str, prompt_tokens: int, completion_tokens: int) -> None:
        name = key_of(caller)
        if self._meter is not None and name:
            self._meter.spent(name, prompt_tokens, completion_tokens)

    def _charge_energy(self, bill: Bill, energy: Energy) -> None:
        name = key_of(bill.caller)
        if self._meter is not None and name and energy.joules is not None:
            self._meter.used(name, energy.joules)

    def _measure_energy(self, bill: Bill) -> None:
        """Of a request that is whole; one that nothing was computed of is none."""
        joules = None if bill.energy is None else bill.energy.joules
        if joules is None:
            return
        self.metrics.request_energy.labels(bill.model).observe(joules)
        if bill.tokens:
            self.metrics.token_energy.labels(bill.model).observe(joules / bill.tokens)


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
