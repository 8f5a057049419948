"""What a model is asked before it takes over a name, and what its answers say of it.

All is asked of a runner directly, at temperature 0. It shows what any sane model shows, of whatever
size and language: plain text surprises it no more than it does others, and it speaks.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from edge.errors import EdgeError
from edge.modelstore.canaries import Canary
from edge.runtime.ask import Said, ask
from edge.runtime.runner import ModelRunner
from edge.types import ChatPrompt, Generation, Grammar, Message, Prompt, Sampling, TextPrompt

TEXTS = (
    "Before the pump is started, make sure that the valve on the suction side is open and that "
    "the tank holds enough water. If the pump runs dry, the seal gets hot and wears out.",
    "def mean(values):\n    if not values:\n        return 0.0\n    total = 0.0\n"
    "    for value in values:\n        total += value\n    return total / len(values)\n",
)

QUESTIONS = (
    "Name three tools that are used to repair a machine.",
    "Explain in two sentences why bearings need oil.",
    "What is the capital of France?",
    "Write one sentence about the weather in spring.",
)

ANSWER_TOKENS = 32
"""Of an answer at most."""

PACED_TOKENS = 16
"""Of one measurement of the speed."""

LONGEST_SHOWN = 60
"""Characters of a wrong answer that are told."""

_numbers = itertools.count(1)


class Figures(msgspec.Struct):
    """Of one version.

    nats_per_byte: the mean over `TEXTS` of the negative log probability; for each byte, so that
    vocabularies do not matter; None where that is no number. answers: to `QUESTIONS`; sane: how
    many of them could be a model's. tokens_per_second: of one stream, the best of some.
    memory_bytes: resident.
    """

    nats_per_byte: float | None
    answers: list[str]
    sane: int
    memory_bytes: int
    tokens_per_second: float = 0.0


async def figures(runner: ModelRunner) -> Figures:
    """All but the speed. Raises `EdgeError` where there is no answer."""
    chats = runner.facts is not None and runner.facts.has_chat_template
    asked = [_generation(_question(text, chats), ANSWER_TOKENS) for text in QUESTIONS]
    said = await ask(runner, asked)
    return Figures(
        nats_per_byte=await _surprise(runner),
        answers=[one.text for one in said],
        sane=sum(is_sane(one.text, one.tokens) for one in said),
        memory_bytes=runner.stats.memory_bytes if runner.stats else 0,
    )


async def pace(runner: ModelRunner) -> float:
    """Tokens per second of one stream, its prompt not counted. Raises `EdgeError`."""
    generation = _generation(TextPrompt("The maintenance begins with"), PACED_TOKENS)
    generation.ignore_eos = True
    [said] = await ask(runner, [generation])
    return (PACED_TOKENS - 1) / max(said.finished.usage.generation_seconds, 1e-6)


async def wrong_answers(runner: ModelRunner, canaries: Sequence[Canary]) -> list[str]:
    """What is wrong with the answers to the operator's own questions, in words."""
    found = []
    for number, canary in enumerate(canaries, 1):
        try:
            [said] = await ask(runner, [_asked(canary)])
        except EdgeError as error:
            found.append(f"canary {number}: {error.message}")
        else:
            if fault := _fault(canary, said):
                shown = said.text.strip()[:LONGEST_SHOWN]
                found.append(f"canary {number}: {fault}: {shown!r}")
    return found


def is_sane(text: str, tokens: Sequence[int]) -> bool:
    """It says something, in characters, and not one token again and again.

    One that is cut may end in the middle of a character.
    """
    if not text.strip() or "\ufffd" in text[:-1]:
        return False
    most = max(Counter(tokens).values())
    return len(tokens) < ANSWER_TOKENS // 2 or most <= len(tokens) / 2


async def _surprise(runner: ModelRunner) -> float | None:
    """Each text is all that a grammar allows, and log probabilities are told without it. Of its
    spellings in tokens the model takes the one that it finds likeliest step by step."""
    asked = []
    for text in TEXTS:
        generation = _generation(TextPrompt("\n"), len(text.encode()))
        generation.logprobs = 0
        generation.grammar = Grammar("lark", f"start: {json.dumps(text)}")
        asked.append(generation)
    said = await ask(runner, asked)
    each = [
        -sum(entry.chosen.logprob for entry in one.logprobs) / len(text.encode())
        for text, one in zip(TEXTS, said, strict=True)
    ]
    mean = sum(each) / len(each)
    return mean if math.isfinite(mean) else None


def _generation(prompt: Prompt, tokens: int) -> Generation:
    # Before what waits already: nobody's answer is to wait for long behind them, and they are few.
    return Generation(
        id=f"canary-{next(_numbers)}",
        prompt=prompt,
        sampling=Sampling(temperature=0),
        max_tokens=tokens,
        priority="critical",
        caller="canary",
    )


def _question(text: str, chats: bool) -> Prompt:
    return ChatPrompt([Message("user", text)]) if chats else TextPrompt(text)


def _asked(canary: Canary) -> Generation:
    messages = canary.messages
    prompt: Prompt = ChatPrompt(messages) if messages else TextPrompt(canary.prompt or "")
    generation = _generation(prompt, canary.max_tokens)
    if canary.json_schema is not None:
        generation.grammar = Grammar("json_schema", json.dumps(canary.json_schema))
    return generation


def _fault(canary: Canary, said: Said) -> str | None:
    if canary.json_schema is not None and said.finished.reason != "stop":
        return f"the JSON is not whole within {canary.max_tokens} tokens"
    if canary.text is not None and said.text.strip() != canary.text.strip():
        return f"the answer is not {canary.text.strip()!r}"
    if canary.regex is not None and not re.search(canary.regex, said.text):
        return f"{canary.regex!r} is not in the answer"
    return None
