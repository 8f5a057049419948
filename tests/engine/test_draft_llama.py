"""Drafts over llama.cpp and the real default model: the same texts, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stepping import GREEDY, Heard, Stepper, generation

from edge.cli.load.workloads import questions
from edge.engine.backend import Chunk
from edge.engine.chat import ChatTemplate
from edge.engine.drafts import Drafter
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.types import ChatPrompt, EngineSettings, Generation, Grammar, Message, Sampling

LOG = LlamaLog()

SETTINGS = EngineSettings("cpu", 1, None, 8, 384, "f16", 256, 0)


@pytest.fixture(scope="module")
def backend(default_model_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend("smollm2", default_model_path, SETTINGS, LOG)
    yield backend
    backend.close()


class FreeDrafts(Drafter):
    """Believes that drafted tokens cost nothing, on any machine."""

    def observe(self, sequences: int, drafted: int, seconds: float) -> None:
        super().observe(sequences, drafted, 0.02)


class RealStepper(Stepper):
    def check_books(self) -> None:
        stats = self.engine.stats()
        assert stats.free + stats.running + stats.resident == stats.slots


def stepper(backend: LlamaBackend, drafter: Drafter | None) -> RealStepper:
    """With empty slots, so that nothing is reused."""
    for slot in range(backend.slots):
        backend.truncate(slot, 0)
    source = backend.chat_template()
    assert source is not None
    template = ChatTemplate(source, backend.vocabulary)
    return RealStepper(backend, template, drafter=drafter)  # type: ignore[arg-type]


def asked(workload: str, number: int, **fields: object) -> Generation:
    question = questions(workload, "drafts", number + 1)[number]
    messages = [Message(one["role"], one["content"]) for one in question.messages]
    fields.setdefault("max_tokens", 40)
    return generation(ChatPrompt(messages), f"{workload} {number}", **fields)


def mixed() -> list[Generation]:
    """Texts that repeat their prompts, others, sampled ones, one with a grammar."""
    form = Grammar("regex", r'\{"text":"[A-Za-z ,.]{30,120}"\}')
    return [
        asked("extract", 0),
        asked("chat", 1, max_tokens=24),
        asked("extract", 2, logprobs=2),
        asked("extract", 3, sampling=Sampling(seed=7, temperature=0.4, top_p=0.9)),
        asked("extract", 4, sampling=Sampling(temperature=0, repeat_penalty=1.05)),
        asked("extract", 5, grammar=form),
        asked("chat", 6, sampling=Sampling(seed=3), max_tokens=24),
        asked("extract", 7, stop=["filter"]),
    ]


def assert_same(one: Heard, other: Heard) -> None:
    assert one.tokens == other.tokens
    assert (one.text, one.reason, one.logprobs) == (other.text, other.reason, other.logprobs)


def accepted(heard: Heard) -> int:
    assert heard.usage is not None
    return heard.usage.accepted_tokens


def test_rows_of_a_chunk_are_those_of_single_tokens(backend: LlamaBackend) -> None:
    """To the bit: a drafted token's logits are what they would be by itself."""
    tokens = backend.vocabulary.tokenize(
        "The next shift should watch the press and write down the speed every hour. " * 3,
        special=False,
        bos=False,
    )
    prompt, rest = tokens[:24], tokens[24:40]
    backend.truncate(1, 0)
    backend.decode([Chunk(1, 0, prompt, 0)])
    single = []
    for at, token in enumerate(rest):
        backend.decode([Chunk(1, len(prompt) + at, [token], 1)])
        single.append(backend.logits()[0].copy())
    for length in (2, 3, 4, 7, 8, 16):
        backend.truncate(1, len(prompt))
        backend.decode([Chunk(1, len(prompt), rest[:length], length)])
        assert np.array_equal(backend.logits(), np.stack(single[:length]))


def test_copied_text_is_the_same_in_fewer_steps(backend: LlamaBackend) -> None:
    """Alone, greedily: several tokens come with a step, and they are the same. Whether the model
    copies one text or another is a matter of the last bits of its numbers."""
    plain, drafted = stepper(backend, None), stepper(backend, FreeDrafts())
    kept = tokens = 0
    for number in range(4):
        request = asked("extract", number, sampling=GREEDY)
        without, heard = plain.answer(request), drafted.answer(request)
        assert_same(without, heard)
        kept += accepted(heard)
        tokens += len(heard.tokens)
    assert kept > tokens / 4
    assert drafted.engine.steps < 0.8 * plain.engine.steps


def test_eight_streams_with_and_without_drafts_are_the_same(backend: LlamaBackend) -> None:
    """Copies and others, sampled and constrained, side by side and alone."""
    plain, drafted = stepper(backend, None), stepper(backend, FreeDrafts())
    without = [plain.submit(request) for request in mixed()]
    plain.run()
    for slot in range(backend.slots):
        backend.truncate(slot, 0)
    heard = [drafted.submit(request) for request in mixed()]
    drafted.run()
    for one, other in zip(without, heard, strict=True):
        assert_same(one, other)
    assert sum(map(accepted, heard)) > 30
    alone = stepper(backend, FreeDrafts())
    for request, one in list(zip(mixed(), without, strict=True))[2:4]:
        assert_same(alone.answer(request), one)
