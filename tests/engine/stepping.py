"""Steps an engine over the fake backend, collects what comes out and checks the books."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fake import Answer, FakeBackend

from edge.engine.chat import ChatTemplate
from edge.engine.drafts import Drafter
from edge.engine.engine import Engine
from edge.engine.intake import Intake
from edge.engine.prefixes import PrefixStore
from edge.types import (
    Delta,
    Event,
    Failed,
    Finished,
    Generation,
    Prompt,
    Sampling,
    Started,
    TextPrompt,
    TokenLogprob,
    Usage,
)

GREEDY = Sampling(temperature=0)


@dataclass
class Heard(Answer):
    """What a client has received of one generation."""

    cached: int | None = None
    deltas: list[Delta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    usage: Usage | None = None
    failure: str | None = None

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.failure is not None


class Stepper:
    """The worker's loop, one turn at a time."""

    def __init__(
        self,
        backend: FakeBackend,
        template: ChatTemplate | None = None,
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
        kept_bytes: int = 0,
    ) -> None:
        """kept_bytes: memory for prefixes that left their slot."""
        self.backend = backend
        self.prefixes = PrefixStore(kept_bytes, backend.can_cut_snapshots)
        self.engine = Engine(backend, clock, drafter=drafter, prefixes=self.prefixes)
        self.intake = Intake(backend.vocabulary, lambda: template, backend.context)
        self.heard: dict[str, Heard] = {}

    def submit(self, generation: Generation) -> Heard:
        self.engine.submit(self.intake.prepare(generation))
        heard = self.heard[generation.id] = Heard()
        return heard

    def cancel(self, sequence_id: str) -> None:
        self.engine.cancel(sequence_id)
        del self.heard[sequence_id]

    def step(self) -> list[Event]:
        events = self.engine.admit()
        self.check_books()
        events += self.engine.step()
        self.check_books()
        for event in events:
            self._hear(event)
        return events

    def run(self) -> None:
        """Step until all is answered."""
        while not self.engine.idle:
            before = self.engine.steps
            assert self.step() or self.engine.steps > before, "nothing moves"

    def answer(self, generation: Generation) -> Heard:
        heard = self.submit(generation)
        self.run()
        return heard

    def check_books(self) -> None:
        engine, backend = self.engine, self.backend
        stats = engine.stats()
        assert stats.free + stats.running + stats.resident == stats.slots == backend.slots
        assert engine.slots.held == backend.held, "the ledger differs from what the slots hold"
        assert stats.kv_used_tokens == sum(map(len, backend.held))
        running = {s.slot: s for s in engine.running.values()}
        assert len(running) == len(engine.running) == stats.running
        for slot, sequence in running.items():
            assert backend.held[slot] == sequence.tokens[: sequence.computed]
        assert 0 <= self.prefixes.bytes <= self.prefixes.budget

    def _hear(self, event: Event) -> None:
        heard = self.heard[event.id]
        assert not heard.ended, "nothing comes after the end"
        if isinstance(event, Failed):
            assert event.code == "deadline_exceeded", event
            heard.failure = event.code
        elif isinstance(event, Started):
            assert heard.cached is None
            heard.cached = event.cached_tokens
        elif isinstance(event, Delta):
            assert heard.cached is not None, "started before the first token"
            heard.deltas.append(event)
            heard.text += event.text
            heard.tokens += event.tokens
            heard.logprobs += event.logprobs
        elif isinstance(event, Finished):
            heard.reason, heard.usage = event.reason, event.usage


def generation(prompt: Prompt | str, name: str = "a", **fields: object) -> Generation:
    """A greedy generation unless `sampling` says otherwise."""
    prompt = TextPrompt(prompt) if isinstance(prompt, str) else prompt
    fields.setdefault("sampling", GREEDY)
    return Generation(name, prompt, **fields)  # type: ignore[arg-type]


def varied(seed: int, sampling: Sampling) -> Generation:
    """With stop strings, log probabilities or neither, by the seed; its prompt is `Text {seed}`."""
    return generation(
        f"Text {seed}",
        sampling=sampling,
        max_tokens=60,
        stop=["ab", "é"] if seed % 2 else [],
        logprobs=2 if seed % 3 == 0 else None,
        ignore_eos=seed % 5 == 0,
    )
