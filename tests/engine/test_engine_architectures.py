"""Models that forget, or cannot go back: what the model says of itself decides what is reused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_models
from fake import Answer
from stepping import Stepper, generation

from edge.engine.backend import Chunk
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.types import EngineSettings, TokenPrompt

LOG = LlamaLog()
SETTINGS = EngineSettings("cpu", 1, None, 2, 512, "f16", 256, 0)
WHOLE = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def window(folder: Path) -> Iterator[LlamaBackend]:
    path = random_models.sliding_window(folder / "window.gguf")
    backend = LlamaBackend("window", path, SETTINGS, LOG)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def recurrent(folder: Path) -> Iterator[LlamaBackend]:
    path = random_models.recurrent(folder / "recurrent.gguf")
    backend = LlamaBackend("recurrent", path, SETTINGS, LOG)
    yield backend
    backend.close()


class RealStepper(Stepper):
    """Without a fake's knowledge of what the slots hold."""

    def check_books(self) -> None:
        stats = self.engine.stats()
        assert stats.free + stats.running + stats.resident == stats.slots


def tokens(seed: int, size: int = 100) -> list[int]:
    pick = random.Random(seed)
    return [pick.randrange(random_models.VOCABULARY) for _ in range(size)]


def logits(backend: LlamaBackend, slot: int, prompt: list[int], start: int = 0) -> Any:
    backend.truncate(slot, start)
    backend.decode([Chunk(slot, start, prompt[start:], True)])
    return backend.logits()[0].copy()


def answers(backend: LlamaBackend, kept_bytes: int) -> tuple[list[Answer], int]:
    """Four programs over two slots, one after the other; and how many tokens were there already."""
    stepper = RealStepper(backend, kept_bytes=kept_bytes)  # type: ignore[arg-type]
    pick = random.Random(3)
    heard = []
    for number in range(20):
        prompt = [*tokens(pick.randrange(4)), *tokens(100 + number, 3)]
        request = generation(TokenPrompt(prompt), f"{number}", max_tokens=3, ignore_eos=True)
        heard.append(stepper.answer(request))
    return list(heard), sum(one.cached or 0 for one in heard)


def test_window_model_says_what_it_can(window: LlamaBackend) -> None:
    """A slot keeps all tokens and can go back; a snapshot does not have them all."""
    assert (window.can_truncate, window.can_cut_snapshots) == (True, False)


def test_slot_of_a_window_model_goes_back(window: LlamaBackend) -> None:
    """Cut by more than the window, its numbers are those of a prompt that was never longer."""
    prompt = tokens(1)
    fresh = logits(window, 0, prompt)
    logits(window, 0, [*prompt, *tokens(2, 150)])
    assert np.abs(logits(window, 0, prompt, 60) - fresh).max() < 0.001


def test_whole_snapshot_of_a_window_model_is_right(window: LlamaBackend) -> None:
    """Cut to less it would not be: this is why it is not."""
    prompt = [*tokens(1), *tokens(2)]
    fresh, shorter = logits(window, 0, prompt), logits(window, 1, prompt[:100])
    window.truncate(0, 199)
    data = window.snapshot(0, WHOLE)
    window.restore(1, data)
    assert np.abs(logits(window, 1, prompt, 199) - fresh).max() < 0.001
    window.restore(1, data)
    assert np.abs(logits(window, 1, prompt[:100], 99) - shorter).max() > 0.01


def test_prefixes_of_a_window_model_are_reused(window: LlamaBackend) -> None:
    """And change no text."""
    kept, cached = answers(window, 1 << 30)
    plain, cached_in_slots = answers(window, 0)
    assert [one.tokens for one in kept] == [one.tokens for one in plain]
    assert cached > cached_in_slots


def test_recurrent_model_says_what_it_can(recurrent: LlamaBackend) -> None:
    """Neither a slot nor a snapshot of it can be cut."""
    assert (recurrent.can_truncate, recurrent.can_cut_snapshots) == (False, False)


def test_conversation_with_a_recurrent_model_goes_on(recurrent: LlamaBackend) -> None:
    """From a snapshot of all of it, after both slots went to others, with the same text."""

    def second_turn(kept_bytes: int) -> tuple[list[int], int | None]:
        stepper = RealStepper(recurrent, kept_bytes=kept_bytes)  # type: ignore[arg-type]

        def ask(prompt: list[int], name: str) -> Any:
            request = generation(TokenPrompt(prompt), name, max_tokens=5, ignore_eos=True)
            return stepper.answer(request)

        first = ask(tokens(1), "first")
        for number in range(3):
            ask(tokens(10 + number), f"{number}")
        heard = ask([*tokens(1), *first.tokens[:-1], *tokens(2, 4)], "second")
        return heard.tokens, heard.cached

    kept, cached = second_turn(1 << 30)
    plain, computed = second_turn(0)
    assert (kept, cached, computed) == (plain, 104, 0)


def test_prompts_of_a_recurrent_model_are_answered_as_ever(recurrent: LlamaBackend) -> None:
    """Where nothing can be reused, nothing wrong is."""
    kept, _ = answers(recurrent, 1 << 30)
    plain, _ = answers(recurrent, 0)
    assert [one.tokens for one in kept] == [one.tokens for one in plain]
