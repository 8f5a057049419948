"""Continuous batching around one synchronous, steppable `step()`.

    submit ─► waiting ─► admit (slot, cached prefix) ─► running ─► plan ─► decode ─► choose

One thread owns the engine and all below it. Nothing here blocks or sleeps, and what depends on the
time asks the clock that the engine was given, so tests can step it with a fake backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edge.engine.backend import Backend, Chunk
from edge.engine.drafts import Drafter
from edge.engine.kv import KvCache
from edge.engine.pacer import Pacer
from edge.engine.prefixes import PrefixStore
from edge.engine.sampling import Sampler
from edge.engine.scheduler import Scheduler
from edge.engine.sequence import Sequence
from edge.engine.slots import COPY_PAYS, Placement, common_prefix
from edge.engine.waiting import Waiting, to_park
from edge.errors import DeadlineExceeded, InvalidRequest
from edge.types import EngineStats, Event, Failed, Finished, Span, Started

Plan = list[tuple[Sequence, int]]
"""Who is computed together, and how many tokens of each."""


class Engine:
    """All sequences of one model. Every submitted one ends with `Finished` or `Failed`, or is
    cancelled, which is silent."""

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float] = time.monotonic,
        inter_token_ms: float | None = None,
        drafter: Drafter | None = None,
        prefixes: PrefixStore | None = None,
    ) -> None:
        """clock: seconds; the deadlines of generations are times of it.

        inter_token_ms: what a step with prompts beside streams aims at; None is relative to one
        without.
        drafter: who guesses at tokens ahead; nobody if left out.
        prefixes: keeps what slots lose; without one nothing is kept.
        """
        self.backend = backend
        self.clock = clock
        # What was drafted and is wrong has to be taken back.
        self.drafter = drafter if backend.can_truncate else None
        self.kv = KvCache(backend, prefixes or PrefixStore(0))
        self.slots = self.kv.slots
        self.scheduler = Scheduler(backend.batch, inter_token_ms)
        self.pacer = Pacer(self.slots.count)
        self.waiting = Waiting()
        self.running: dict[str, Sequence] = {}
        self.steps = 0
        self._spans: list[Span] = []

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def rest(self) -> float:
        """Seconds that it should not be stepped for, unless a critical sequence comes."""
        return self.pacer.rest([*self.running.values(), *self.waiting], self.clock())

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.submit(sequence, self.clock())

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence; its slot is resident before the next step. Unknown ids are fine."""
        for sequence in [one for one in self.waiting if one.id == sequence_id]:
            self.waiting.remove(sequence)
            self.kv.forget(sequence_id)
        if running := self.running.pop(sequence_id, None):
            self._leave_slot(running)

    def admit(self) -> list[Event]:
        """Give slots to waiting sequences, as many as there are; a critical one that finds none
        has that of a batch sequence, which goes on later from where it stopped. Those whose
        deadline has passed fail, wherever they are.

        Separate from `step`, so that the worker can tell who is running before a computation
        that may kill it. At most one state is moved in a step that streams wait for, and nothing
        behind a copy: the backend makes it with the next computation.
        """
        now = self.clock()
        events = self._expire(now)
        self.kv.prefixes.take_in()
        streams = any(sequence.decoding for sequence in self.running.values())
        moved = copied = False
        for sequence in self.waiting.order(now):
            if not self.pacer.lets_begin(sequence, self.running.values()):
                continue
            placement = self.kv.find(sequence)
            if placement is None and sequence.urgent and self._park():
                placement = self.kv.find(sequence)
            if placement is None:
                break
            if self._is_being_computed(sequence, placement):
                continue
            if self.kv.stalls(placement):
                if copied or (moved and streams):
                    break
                moved, copied = True, placement.source is not None
            self.waiting.admit(sequence)
            events += self._start(sequence, placement)
        return events

    def step(self) -> list[Event]:
        """Compute what the scheduler plans, and choose a token for every sequence that is complete.

        Generating sequences and prompts are computed apart: within one batch every sequence
        attends over as many cells as the longest of them has, and with a long prompt beside them
        that is what a step of the streams would cost.

        Raises RuntimeError when the backend failed: the process is then of no more use.
        """
        plan = self.scheduler.plan(self.running.values(), self.pacer.pace.batch_chunk)
        if not plan:
            return []
        began = time.perf_counter()
        plan.sort(key=lambda entry: entry[0].slot or 0)
        generating = [entry for entry in plan if entry[0].decoding]
        prompts = [entry for entry in plan if not entry[0].decoding]
        prompt_tokens = sum(count for _, count in prompts)
        events = self._spanned(generating, self._generate)
        events += self._spanned(prompts, self._run)
        seconds = time.perf_counter() - began
        self.scheduler.observe(len(generating), prompt_tokens, seconds)
        self.scheduler.serve(prompts)
        self.pacer.worked(seconds, self.clock())
        self.steps += 1
        return events

    def take_spans(self) -> list[Span]:
        """What was computed since this was last asked, in tokens; those of drafts are computed
        too, and those that were cached are not."""
        spans, self._spans = self._spans, []
        return spans

    def stats(self, memory_bytes: int = 0) -> EngineStats:
        slots = self.slots
        return EngineStats(
            steps=self.steps,
            slots=slots.count,
            free=slots.free,
            running=slots.running,
            resident=slots.resident,
            waiting=len(self.waiting),
            kv_used_tokens=slots.tokens,
            kv_total_tokens=slots.count * self.backend.context,
            memory_bytes=memory_bytes,
            kept_prefixes=self.kv.prefixes.count,
            kept_bytes=self.kv.prefixes.bytes,
        )

    def _is_being_computed(self, sequence: Sequence, placement: Placement) -> bool:
        """True while another sequence computes a prefix that this one could have for a copy.

        One that will be copied anyway waits for the last common token: the other's prompt is
        ahead in the queue, so computing the rest twice would gain nothing.
        """
        needed = placement.cached + (COPY_PAYS if placement.source is None else 1)
        prompt = sequence.tokens[:-1]  # the last one is computed in any case
        return any(
            common_prefix(other.tokens, prompt) >= needed
            for other in self.running.values()
            if not other.decoding and self.slots.can_truncate and other.owner == sequence.owner
        )

    def _park(self) -> bool:
        """Take the slot of a batch sequence; False if none has one.

        What the slot holds stays there for as long as nobody needs the room, and is then kept as a
        snapshot, so that only what was pending is computed later. Where there is no room for one,
        it is computed anew, which gives the same numbers (tests/engine): the text is what it would
        have been.
        """
        sequence = to_park(self.running.values())
        if sequence is None:
            return False
        del self.running[sequence.id]
        self.kv.park(sequence)
        sequence.park()
        self.waiting.submit(sequence, self.clock())
        return True

    def _expire(self, now: float) -> list[Event]:
        """Forget all whose answers are worthless, and let running prompts age."""
        late: list[Sequence] = []
        for sequence in [*self.waiting, *self.running.values()]:
            if sequence.late(now):
                late.append(sequence)
            elif not sequence.decoding:
                sequence.age(now)
        for sequence in late:
            self.cancel(sequence.id)
        code, message = DeadlineExceeded.code, "the deadline passed"
        return [Failed(sequence.id, code, message) for sequence in late]

    def _start(self, sequence: Sequence, placement: Placement) -> list[Event]:
        cached = self.kv.place(sequence, placement)
        self.running[sequence.id] = sequence
        if sequence.parked:
            sequence.go_on(placement.slot, cached)
            return []
        generation = sequence.generation
        sampler = Sampler(
            self.backend, generation.sampling, generation.logprobs, sequence.constraint
        )
        sequence.start(placement.slot, cached, sampler, self.clock())
        events: list[Event] = [Started(sequence.id, sequence.cached_tokens)]
        if sequence.ended:
            if said := sequence.said():
                events.append(said)
            events.append(self._finish(sequence))
        return events

    def _spanned(self, plan: Plan, compute: Callable[[Plan], list[Event]]) -> list[Event]:
        """Compute a part of the step, and note for how long and for whom."""
        if not plan:
            return []
        drafted = [sequence.drafted_tokens for sequence, _ in plan]
        began = self.clock()
        events = compute(plan)
        rows = {
            sequence.id: count + sequence.drafted_tokens - before
            for (sequence, count), before in zip(plan, drafted, strict=True)
        }
        self._spans.append(Span(began, self.clock(), rows))
        return events

    def _generate(self, plan: Plan) -> list[Event]:
        """Compute the generating part of a step, with drafts where they are expected to pay."""
        if self.drafter is None or not self.pacer.pace.drafts:
            return self._run(plan)
        tokens = sum(count for _, count in plan)
        room = min(self.backend.batch - tokens, self.backend.outputs - len(plan))
        drafts = self.drafter.propose([sequence for sequence, _ in plan], room)
        began = time.perf_counter()
        events = self._run(plan, drafts)
        if tokens == len(plan):  # nothing in it was fixed by a grammar
            drafted = sum(map(len, drafts.values()))
            self.drafter.observe(len(plan), drafted, time.perf_counter() - began)
        return events

    def _run(self, plan: Plan, drafts: Mapping[str, list[int]] | None = None) -> list[Event]:
        """Compute a part of the step and choose from its output rows, which the next part takes."""
        events: list[Event] = []
        for sequence, row, draft in self._decode(plan, drafts or {}):
            events += self._choose(sequence, row, draft)
        return events

    def _decode(
        self, plan: Plan, drafts: Mapping[str, list[int]]
    ) -> list[tuple[Sequence, int, list[int]]]:
        """Compute the plan; returns the sequences that are complete, each with its first output
        row and with the draft to which the rows behind that one belong."""
        chunks: list[Chunk] = []
        complete: list[tuple[Sequence, int, list[int]]] = []
        rows = 0
        for sequence, count in plan:
            assert sequence.slot is not None
            start = sequence.computed
            whole = count == sequence.pending
            draft = drafts.get(sequence.id, []) if whole else []
            tokens = sequence.tokens[start : start + count] + draft
            outputs = 1 + len(draft) if whole else 0
            chunks.append(Chunk(sequence.slot, start, tokens, outputs))
            if whole:
                complete.append((sequence, rows, draft))
                rows += outputs
        self.backend.decode(chunks)
        for (sequence, count), chunk in zip(plan, chunks, strict=True):
            sequence.computed += count
            self.slots.extend(chunk.slot, chunk.tokens)
        return complete

    def _choose(self, sequence: Sequence, row: int, draft: list[int]) -> list[Event]:
        """Go on with what was chosen from the row, and choose from each further one whose draft
        turned out right."""
        assert sequence.sampler is not None
        begin, right = len(sequence.tokens), 0
        try:
            while True:
                sequence.choose(*sequence.sampler.choose(row + right))
                right = common_prefix(draft, sequence.tokens[begin:])
                if sequence.ended or right < len(sequence.tokens) - begin:
                    break
        except InvalidRequest as error:
            sequence.failure = error
        if draft:
            self._keep(sequence, len(draft), right)
        if not sequence.first_token_at:
            sequence.first_token_at = self.clock()
        said = sequence.said()
        events: list[Event] = [said] if said else []
        return [*events, self._finish(sequence)] if sequence.ended else events

    def _keep(self, sequence: Sequence, drafted: int, right: int) -> None:
        """Of a draft that was computed, what is right is the sequence's; the rest goes."""
        sequence.computed += right
        sequence.drafted_tokens += drafted
        sequence.accepted_tokens += right
        if right < drafted:
            assert sequence.slot is not None
            self.backend.truncate(sequence.slot, sequence.computed)
            self.slots.take_back(sequence.slot, sequence.computed)

    def _finish(self, sequence: Sequence) -> Event:
        del self.running[sequence.id]
        self._leave_slot(sequence)
        if failure := sequence.failure:
            return Failed(sequence.id, failure.code, failure.message, failure.param)
        if sequence.reason is None:
            return Failed(sequence.id, "internal_error", "the sequence has no end")
        return Finished(sequence.id, sequence.reason, sequence.usage(self.clock()))

    def _leave_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.slots.release(sequence.slot)
