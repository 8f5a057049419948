"""Snapshots of real slots: they are the numbers that were computed, and save computing them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import Answer
from stepping import Heard, Stepper, generation

from edge.engine.backend import Chunk, SnapshotFailed
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.types import EngineSettings, TokenPrompt

LOG = LlamaLog()
PLENTY = 1 << 30
WHOLE = 1 << 30


def settings(**fields: Any) -> EngineSettings:
    given = {
        "backend": "cpu",
        "threads": 1,
        "gpu_layers": None,
        "slots": 4,
        "context": 256,
        "kv_type": "f16",
        "batch": 256,
        "kv_budget_bytes": 0,
    }
    return EngineSettings(**{**given, **fields})


@pytest.fixture(scope="module", params=["f16", "q8_0"])
def backend(default_model_path: Path, request: pytest.FixtureRequest) -> Iterator[LlamaBackend]:
    """With transposed values and without flash attention; and with it."""
    backend = LlamaBackend("smollm2", default_model_path, settings(kv_type=request.param), LOG)
    yield backend
    backend.close()


class RealStepper(Stepper):
    """Without a fake's knowledge of what the slots hold."""

    def check_books(self) -> None:
        stats = self.engine.stats()
        assert stats.free + stats.running + stats.resident == stats.slots
        assert self.prefixes.bytes <= self.prefixes.budget


def stepper(backend: LlamaBackend, kept_bytes: int = PLENTY) -> RealStepper:
    return RealStepper(backend, kept_bytes=kept_bytes)  # type: ignore[arg-type]


def prompt(seed: int, size: int = 150) -> list[int]:
    pick = random.Random(seed)
    return [pick.randrange(1000, 40000) for _ in range(size)]


def logits(backend: LlamaBackend, slot: int, tokens: list[int], start: int = 0) -> Any:
    backend.truncate(slot, start)
    backend.decode([Chunk(slot, start, tokens[start:], True)])
    return backend.logits()[0].copy()


def test_restored_state_is_what_was_computed(backend: LlamaBackend) -> None:
    """Whole or cut to a part of it, in another slot, among others that run: the next token's
    numbers are those of a slot that was never left."""
    tokens = prompt(1)
    logits(backend, 0, tokens)
    data = backend.snapshot(0, WHOLE)
    for length in (149, 100, 1):
        wanted = logits(backend, 0, tokens, length)
        backend.restore(2, data)
        assert np.abs(logits(backend, 2, tokens, length) - wanted).max() < 0.001


def test_restoring_touches_no_other_slot(backend: LlamaBackend) -> None:
    """The others compute on as if nothing had been."""
    mine, theirs = prompt(1), prompt(2)
    wanted = logits(backend, 1, theirs, 0)
    logits(backend, 0, mine)
    data = backend.snapshot(0, WHOLE)
    logits(backend, 2, prompt(3, 200))
    backend.restore(2, data)
    assert np.abs(logits(backend, 1, theirs, 149) - wanted).max() < 0.001


@pytest.mark.parametrize("damage", ["cut", "head", "empty"])
def test_damaged_snapshot_leaves_an_empty_slot(backend: LlamaBackend, damage: str) -> None:
    """llama.cpp refuses it, and the slot computes like one that was never used."""
    tokens = prompt(1)
    wanted = logits(backend, 0, tokens)
    data = backend.snapshot(0, WHOLE)
    bad = {"cut": data[:1000], "head": np.concatenate([~data[:16], data[16:]]), "empty": data[:0]}
    with pytest.raises(SnapshotFailed):
        backend.restore(0, np.ascontiguousarray(bad[damage]))
    assert backend.snapshot(0, WHOLE).size < 100
    assert np.abs(logits(backend, 0, tokens) - wanted).max() < 0.001


def test_slot_that_is_still_to_be_copied_is_left_alone(backend: LlamaBackend) -> None:
    """Its data moves at the next computation only: neither can it be read before, nor may the
    place be overwritten where it comes from."""
    tokens = prompt(1)
    wanted = logits(backend, 0, tokens)
    data = backend.snapshot(0, WHOLE)
    backend.copy(0, 1, 149)
    with pytest.raises(SnapshotFailed):
        backend.snapshot(1, WHOLE)
    with pytest.raises(SnapshotFailed):
        backend.restore(0, data)
    assert np.abs(logits(backend, 1, tokens, 149) - wanted).max() < 0.001


def test_no_prefix_is_computed_twice(backend: LlamaBackend) -> None:
    """Six programs over four slots at random: only the first call of each computes its prompt, and
    all get the texts that they get without snapshots."""
    pick = random.Random(5)
    calls = [pick.randrange(6) for _ in range(14)]
    requests = [
        generation(TokenPrompt([*prompt(app), *prompt(100 + n, 3)]), f"{n}", max_tokens=3)
        for n, app in enumerate(calls)
    ]
    kept = stepper(backend)
    heard: list[Heard] = []
    for request in requests:
        heard.append(kept.submit(request))
        for _ in range(pick.choice([0, 2, 4])):
            kept.step()
    kept.run()
    seen: set[int] = set()
    for app, one in zip(calls, heard, strict=True):
        assert one.cached is not None
        assert one.cached >= (150 if app in seen else 0)
        seen.add(app)
    plain = stepper(backend, kept_bytes=0)
    wanted: list[Answer] = [plain.answer(request) for request in requests[-6:]]
    assert [one.tokens[0] for one in heard[-6:]] == [one.tokens[0] for one in wanted]


def test_parked_sequence_goes_on_from_its_snapshot(backend: LlamaBackend) -> None:
    """All slots have batch work; the alarm's overwrites one, which comes back as it was."""
    reports = [
        generation(
            TokenPrompt(prompt(n, 40)), f"{n}", max_tokens=30, ignore_eos=True, priority="batch"
        )
        for n in range(4)
    ]
    alone = stepper(backend, kept_bytes=0)
    wanted = [alone.submit(report) for report in reports]
    alone.run()
    parked = stepper(backend)
    for report in reports:
        parked.submit(report)
    for _ in range(10):
        parked.step()
    alarm = generation(TokenPrompt(prompt(9, 30)), "alarm", max_tokens=2, priority="critical")
    parked.submit(alarm)
    parked.step()
    [sequence] = parked.engine.waiting
    had = len(sequence.tokens) - 1
    while sequence.parked:
        parked.step()
    assert sequence.computed >= had
    parked.run()
    assert [parked.heard[report.id].tokens for report in reports] == [one.tokens for one in wanted]
