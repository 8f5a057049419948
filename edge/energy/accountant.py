"""Who has used how much energy: what the machine's sensors measured, shared out to requests.

    sensors ──► stretches (from one sample to the next, joules by rail) ─┐
    workers ──► spans (a computation, and tokens of whom) ───────────────┴► bills, models, the rest

A stretch is shared out once all that was computed in it is known, which a worker in the middle of a
long step delays. Each moment of it is of those who computed at it, by their tokens; a moment at
which nobody did is nobody's. So what requests were billed and what was left are together what was
measured. Owned by the event loop; reads no clock and no sensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import takewhile

import msgspec

from edge.energy.sharing import Work, seconds_of
from edge.types import Energy, Span

UNKNOWN = Energy()

PATIENCE_SECONDS = 600.0
"""For which a stretch waits for a computation to be told. Longer ones do not know what they used,
as a worker that computes for so long without a word counts as hung anyway."""

BLIND_SECONDS = 60.0
"""Without a sample for so long, what is computed is not waited with any longer."""

MOSTLY = 0.5
"""Part of a stretch that has to be computed in for its power to be what computing takes."""


class Stretch(msgspec.Struct, frozen=True):
    """From one sample to the next, monotonic clock, and what was used meanwhile."""

    began: float
    ended: float
    energy: Energy


class Bill:
    """One request to one model. energy: what was shared out to it so far. tokens: that it has
    generated, known at its end. closed_at: None while it is computed."""

    def __init__(self, model: str, caller: str) -> None:
        self.model = model
        self.caller = caller
        self.energy: Energy | None = None
        self.tokens = 0
        self.closed_at: float | None = None

    def add(self, energy: Energy) -> None:
        self.energy = energy if self.energy is None else self.energy.plus(energy)


class ModelEnergy(msgspec.Struct):
    """Since the daemon's start. joules: of all that was computed. ended_joules, tokens: of the
    requests that have ended and generated something."""

    joules: float = 0.0
    ended_joules: float = 0.0
    tokens: int = 0

    @property
    def joules_per_token(self) -> float | None:
        """Their prompts included."""
        return self.ended_joules / self.tokens if self.tokens else None


class _Source:
    """One that computes. heard: up to when all that it has computed is known. away: it is gone, and
    another is to take its place."""

    def __init__(self, now: float) -> None:
        self.heard = now
        self.away = False
        self.bills: dict[str, Bill] = {}


class Accountant:
    """Told of everything; asks nobody.

    busy: told when something begins to be computed, and when nothing is any more. credited: of each
    share of a bill, ended: of each bill that is whole.
    """

    def __init__(self) -> None:
        self.busy: Callable[[bool], None] = lambda busy: None
        self.credited: Callable[[Bill, Energy], None] = lambda bill, energy: None
        self.ended: Callable[[Bill], None] = lambda bill: None
        self.models: dict[str, ModelEnergy] = {}
        self.shared = self.unshared = 0.0
        self._sources: dict[Hashable, _Source] = {}
        self._works: list[Work[Bill]] = []
        self._stretches: deque[Stretch] = deque()
        self._leaving: list[Bill] = []
        self._open = 0
        self.known = False
        """Something was measured since the start."""
        self._settled: float | None = None
        self._measured = 0.0
        self._rate = UNKNOWN
        self._working_rate: Energy | None = None

    # What is computed

    def open(self, source: Hashable, number: str, model: str, caller: str, now: float) -> None:
        """A source is about to compute a request, from now on; again, after it was `lost`."""
        found = self._sources.get(source)
        if found is None:
            found = self._sources[source] = _Source(now)
        found.heard, found.away = max(found.heard, now), False
        if number not in found.bills:
            found.bills[number] = Bill(model, caller)
            self._open += 1
            if self._open == 1:
                self.busy(True)

    def worked(self, source: Hashable, spans: Iterable[Span], at: float) -> None:
        """A source tells what it has computed, which is all until `at`."""
        found = self._sources.get(source)
        if found is None:
            return
        for span in spans:
            self._note(found, span)
        found.heard = max(found.heard, at)
        self._dismiss(source, found)
        self._settle()

    def estimate(self, source: Hashable, number: str) -> Energy:
        """What a request has used: what is shared out, and for the rest what is known by now of
        the power that computing takes."""
        found = self._sources.get(source)
        bill = found.bills.get(number) if found is not None else None
        if bill is None:
            return UNKNOWN
        total = bill.energy or self._rate.times(0)
        for stretch in self._stretches:
            seconds = seconds_of(stretch.began, stretch.ended, self._works).get(bill, 0.0)
            if seconds:
                total = total.plus(stretch.energy.times(seconds / (stretch.ended - stretch.began)))
        seconds = seconds_of(self._measured, float("inf"), self._works).get(bill, 0.0)
        return total.plus(self._power.times(seconds)) if seconds else total

    def close(
        self, source: Hashable, number: str, now: float | None = None, tokens: int = 0
    ) -> None:
        """A request has ended. now: when it was given up, and its source may compute it still; None
        where all of it was told."""
        found = self._sources.get(source)
        bill = found.bills.get(number) if found is not None else None
        if found is None or bill is None or bill.closed_at is not None:
            return
        bill.tokens = tokens
        computing = now is not None and not found.away
        bill.closed_at = max(now or 0.0, found.heard) if computing else found.heard
        self._open -= 1
        self._dismiss(source, found)
        self._end()
        if self._open == 0:
            self.busy(False)

    def lost(self, source: Hashable, still: Iterable[str], now: float) -> None:
        """A source is gone, and with it what it was computing. still: requests that will be
        computed again."""
        found = self._sources.get(source)
        if found is None:
            return
        found.heard, found.away = max(found.heard, now), True
        for number in found.bills.keys() - set(still):
            self.close(source, number)
        self._dismiss(source, found)
        self._settle()

    # What is measured

    def measured(self, stretch: Stretch) -> None:
        """Another stretch, which begins where the last one has ended."""
        length = stretch.ended - stretch.began
        nothing = self._settled is None and stretch.energy.joules is None
        if length <= 0 or nothing:
            return
        if self._settled is None:
            self._settled = stretch.began
        self._measured, self._rate = stretch.ended, stretch.energy.times(1 / length)
        self._stretches.append(stretch)
        self.known = self.known or stretch.energy.joules is not None
        self._settle()

    # Inside

    @property
    def _power(self) -> Energy:
        """Joules in a second of computing, as far as it is known."""
        if self._rate.joules is None or self._working_rate is None:
            return self._rate
        return self._working_rate

    def _note(self, source: _Source, span: Span) -> None:
        rows = sum(span.rows.values())
        bills = {
            source.bills[number]: count / rows
            for number, count in span.rows.items()
            if number in source.bills and count
        }
        blind = span.ended - self._measured > BLIND_SECONDS
        if self._settled is None or blind or span.began < self._settled:
            for bill in bills:
                bill.add(UNKNOWN)
            if blind:
                self._forget()
        elif span.ended > span.began:
            self._works.append(Work(span.began, span.ended, bills))

    def _forget(self) -> None:
        """Nothing measures: what was computed is not going to be shared out."""
        for work in self._works:
            for bill in work.parts:
                bill.add(UNKNOWN)
        self._works.clear()
        self._end(blind=True)

    def _dismiss(self, name: Hashable, source: _Source) -> None:
        """Let go of requests of which nothing more can be told."""
        gone = [
            number
            for number, bill in source.bills.items()
            if bill.closed_at is not None and bill.closed_at <= source.heard
        ]
        self._leaving += [source.bills.pop(number) for number in gone]
        if not source.bills:
            self._sources.pop(name, None)

    def _settle(self) -> None:
        """Share out what can be."""
        computing = (one.heard for one in self._sources.values() if not one.away)
        told = min(computing, default=float("inf"))
        told = max(told, self._measured - PATIENCE_SECONDS)
        for stretch in list(takewhile(lambda one: one.ended <= told, self._stretches)):
            self._stretches.popleft()
            self._share_out(stretch)
            self._settled = stretch.ended
            self._works = [work for work in self._works if work.ended > stretch.ended]
        self._end()

    def _share_out(self, stretch: Stretch) -> None:
        length = stretch.ended - stretch.began
        found = seconds_of(stretch.began, stretch.ended, self._works)
        left = stretch.energy.joules or 0.0
        for bill, seconds in found.items():
            share = stretch.energy.times(seconds / length)
            bill.add(share)
            left -= share.joules or 0.0
            self.shared += share.joules or 0.0
            self.models.setdefault(bill.model, ModelEnergy()).joules += share.joules or 0.0
            self.credited(bill, share)
        self.unshared += max(0.0, left)
        if sum(found.values()) > MOSTLY * length and stretch.energy.joules is not None:
            self._working_rate = stretch.energy.times(1 / length)

    def _end(self, blind: bool = False) -> None:
        """Tell of the bills to which nothing more can be added."""
        if not self._leaving:
            return
        left: list[Bill] = []
        for bill in self._leaving:
            whole = self._settled is None or (bill.closed_at or 0.0) <= self._settled
            if not (whole or blind):
                left.append(bill)
                continue
            joules = None if bill.energy is None else bill.energy.joules
            if bill.tokens and joules is not None:
                model = self.models.setdefault(bill.model, ModelEnergy())
                model.ended_joules += joules
                model.tokens += bill.tokens
            self.ended(bill)
        self._leaving = left
