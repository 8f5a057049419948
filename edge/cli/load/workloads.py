"""What a benchmark asks: made from a seed, so that two servers get the same words.

Sizes in tokens are those of SmolLM2 with its chat template; other tokenizers differ by some ten
percent, and what the server counted is reported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count as numbers
from itertools import islice
from typing import Any, Literal

import msgspec

MACHINES = ("pump", "valve", "motor", "conveyor", "boiler", "press", "robot", "mixer", "fan")
READINGS = ("pressure", "speed", "current", "torque", "level", "flow", "noise", "temperature")
STATES = ("running", "idle", "fault")
DEEDS = (
    "close the inlet",
    "lower the speed by half",
    "call the shift leader",
    "wait for ten minutes and read again",
    "write it into the log",
    "stop the line",
)
ENTRIES = (
    "The {reading} of the {machine} was too high in the morning, so somebody cleaned the sensor.",
    "At noon, the {machine} made a strange noise, so the shift leader stopped the line.",
    "Nobody knows why the {machine} stopped twice before the break.",
    "After the repair of the {machine} the {reading} went back to normal.",
    "The next shift should watch the {machine} and write down the {reading} every hour.",
    "A new filter for the {machine} was ordered from the supplier in the city.",
)


class Question(msgspec.Struct, frozen=True):
    """One request.

    group: what the figures are kept apart by. fields: further fields of the body. edge: fields
    that only this project's daemon knows. structured: the answer has to be a `Report`.
    """

    group: str
    messages: list[dict[str, str]]
    max_tokens: int
    fields: dict[str, Any] = {}
    edge: dict[str, Any] = {}
    structured: bool = False


class Report(msgspec.Struct, forbid_unknown_fields=True):
    """The answer that `json` asks for."""

    machine: str
    state: Literal["running", "idle", "fault"]
    temperature: float
    faults: int
    action: str


REPORT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "enum": list(MACHINES)},
        "state": {"type": "string", "enum": list(STATES)},
        "temperature": {"type": "number"},
        "faults": {"type": "integer"},
        "action": {"type": "string"},
    },
    "required": ["machine", "state", "temperature", "faults", "action"],
    "additionalProperties": False,
}


class Workload(msgspec.Struct, frozen=True):
    """about: for the head of the report. tokens: longest answer, if none is asked for."""

    about: str
    tokens: int
    make: Callable[[random.Random, int], Iterator[Question]]


def questions(workload: str, seed: str, count: int, tokens: int | None = None) -> list[Question]:
    """The same questions for the same arguments, on every machine."""
    kind = WORKLOADS[workload]
    return list(islice(kind.make(random.Random(seed), tokens or kind.tokens), count))


def warm_up() -> Question:
    """A short question that shares no words with the others, so that it warms no prefix."""
    return Question("warm-up", _asked("Say hello."), 4)


def _asked(question: str, system: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": question}]


def _finding(source: random.Random) -> str:
    machine, other = source.sample(MACHINES, 2)
    return (
        f"Note {source.randrange(10**9)}: at the {machine} the {source.choice(READINGS)} reads "
        f"{source.randrange(1000)}, and at the {other} the {source.choice(READINGS)} reads "
        f"{source.randrange(1000)}."
    )


def _rules(source: random.Random, count: int) -> str:
    """A system prompt; 17 rules are about 550 tokens."""
    head = f"You answer the operators of line {source.randrange(10**6)}, briefly. Its rules are:"
    rules = (
        f"Rule {number}: if the {source.choice(READINGS)} of the {source.choice(MACHINES)} is "
        f"above {source.randrange(1000)}, {source.choice(DEEDS)} and {source.choice(DEEDS)}."
        for number in range(1, count + 1)
    )
    return "\n".join([head, *rules])


def _short(source: random.Random) -> str:
    return (
        f"The {source.choice(MACHINES)} shows a {source.choice(READINGS)} of "
        f"{source.randrange(10**6)}. What now?"
    )


def _chat(source: random.Random, tokens: int) -> Iterator[Question]:
    while True:
        text = f"{_finding(source)} What should the operator look at first, and why?"
        yield Question("chat", _asked(text), tokens)


def _prefix(source: random.Random, tokens: int) -> Iterator[Question]:
    system = _rules(source, 17)
    while True:
        yield Question("prefix", _asked(_short(source), system), tokens)


def _apps(source: random.Random, tokens: int) -> Iterator[Question]:
    systems = [_rules(source, 17) for _ in range(12)]
    while True:
        yield Question("apps", _asked(_short(source), source.choice(systems)), tokens)


def _json(source: random.Random, tokens: int) -> Iterator[Question]:
    schema = {"name": "report", "strict": True, "schema": REPORT_SCHEMA}
    form = {"response_format": {"type": "json_schema", "json_schema": schema}}
    while True:
        text = (
            f"{_finding(source)} Report the first machine as JSON with the fields machine, state, "
            "temperature, faults and action (a few words)."
        )
        yield Question("json", _asked(text), tokens, form, structured=True)


def _extract(source: random.Random, tokens: int) -> Iterator[Question]:
    """Small models repeat a text well as long as no two of its sentences are alike."""
    while True:
        entries = source.sample(ENTRIES, len(ENTRIES))
        machines = source.sample(MACHINES, len(entries))
        readings = source.sample(READINGS, len(entries))
        text = " ".join(
            entry.format(machine=machine, reading=reading)
            for entry, machine, reading in zip(entries, machines, readings, strict=True)
        )
        yield Question("extract", _asked(f"Repeat the text:\n\n{text}"), tokens)


def _repeat(source: random.Random, tokens: int) -> Iterator[Question]:
    prompts = [question.messages for question in islice(_chat(source, tokens), 4)]
    for number in numbers():
        yield Question("repeat", prompts[number % 4], tokens)


def _mixed(source: random.Random, tokens: int) -> Iterator[Question]:
    for number in numbers(1):
        if number % 5:
            log = "\n".join(_finding(source) for _ in range(14))
            text = f"{log}\nSum up what happened on this shift."
            yield Question("batch", _asked(text), tokens, edge={"priority": "batch"})
        else:
            urgent = {"priority": "critical"}
            yield Question("critical", _asked(_short(source)), min(16, tokens), edge=urgent)


WORKLOADS = {
    "chat": Workload("chats of about 72 tokens that have nothing in common", 96, _chat),
    "prefix": Workload("short questions under one system prompt of about 550 tokens", 24, _prefix),
    "apps": Workload("short questions under 12 system prompts of about 550 tokens", 24, _apps),
    "json": Workload("answers in a schema of five fields", 120, _json),
    "extract": Workload("texts of about 90 tokens to be repeated word for word", 120, _extract),
    "repeat": Workload("four chats again and again", 96, _repeat),
    "mixed": Workload(
        "four long prompts of priority batch to each short one of priority critical", 128, _mixed
    ),
}
