"""Answers in the shapes of OpenAI's API, with llama-server's `timings` beside them.

Structs are encoded by msgspec: a streamed token costs one small encode and no validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import msgspec

from edge.tensors import Inferred
from edge.types import Alternative, Attempt, Energy, Route, TokenLogprob, Trail, Usage

DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


class PromptDetails(msgspec.Struct):
    cached_tokens: int


class UsageBody(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(msgspec.Struct, omit_defaults=True):
    """As llama-server has them; times in milliseconds, rates in tokens a second. Those of drafts
    are there only if there were any."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int = 0
    draft_n_accepted: int = 0


class Origin(msgspec.Struct):
    """Where an answer came from, everything that was tried for it, and the energy that it took
    here, by rail and in all: null where it is unknown. Not of OpenAI's API."""

    route: Route
    model: str
    attempts: list[Attempt]
    energy_joules: float | None = None
    rails_joules: dict[str, float] | None = None

    @property
    def energy(self) -> Energy:
        return Energy(self.energy_joules, self.rails_joules or {})

    def spent(self, energy: Energy) -> Origin:
        """The same with another energy."""
        if energy.joules is None:
            return msgspec.structs.replace(self, energy_joules=None, rails_joules=None)
        rails = {name: round(joules, 4) for name, joules in energy.rails.items()}
        joules = round(energy.joules, 4)
        return msgspec.structs.replace(self, energy_joules=joules, rails_joules=rails)


class Answer(msgspec.Struct, omit_defaults=True):
    """A whole answer, or one chunk of a stream."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: UsageBody | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET
    edge: Origin | msgspec.UnsetType = msgspec.UNSET


def encode(answer: Any) -> bytes:
    return _encoder.encode(answer)


def event(answer: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encoder.encode(answer) + b"\n\n"


def usage_body(usages: Sequence[Usage], answers_each: int) -> UsageBody:
    """Over all answers, in their order: each prompt counts once, as in OpenAI's API."""
    firsts = usages[::answers_each]
    prompt = sum(usage.prompt_tokens for usage in firsts)
    cached = sum(usage.cached_tokens for usage in firsts)
    completion = sum(usage.completion_tokens for usage in usages)
    return UsageBody(prompt, completion, prompt + completion, PromptDetails(cached))


def origin(trail: Trail, usages: Iterable[Usage]) -> Origin:
    """usages: of all answers."""
    found = Origin(trail.route, trail.model, trail.attempts)
    if trail.route == "cache":  # nothing was computed
        return found.spent(Energy(0.0))
    if trail.route == "local":
        return found.spent(reduce(Energy.plus, (usage.energy or Energy() for usage in usages)))
    return found


def origin_of(inferred: Inferred) -> Origin:
    """Of what was computed here and is no generation."""
    return Origin("local", inferred.model, []).spent(inferred.energy)


def timings(usage: Usage) -> Timings:
    computed = usage.prompt_tokens - usage.cached_tokens
    # The first token comes with the prompt; the generation's time is that of the others.
    others = max(usage.completion_tokens - 1, 0)
    each = usage.generation_seconds / others if others else 0.0
    return Timings(
        cache_n=usage.cached_tokens,
        prompt_n=computed,
        prompt_ms=round(usage.prompt_seconds * 1000, 3),
        prompt_per_second=round(computed / max(usage.prompt_seconds, 1e-9), 2),
        predicted_n=usage.completion_tokens,
        predicted_ms=round(usage.generation_seconds * 1000, 3),
        predicted_per_token_ms=round(each * 1000, 3),
        predicted_per_second=round(1 / each, 2) if each else 0.0,
        draft_n=usage.drafted_tokens,
        draft_n_accepted=usage.accepted_tokens,
    )


def chat_logprobs(entries: list[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` object of a chat choice."""
    return {
        "content": [
            {**_chat_alternative(e.chosen), "top_logprobs": [_chat_alternative(a) for a in e.top]}
            for e in entries
        ],
        "refusal": None,
    }


def completion_logprobs(entries: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """The older `logprobs` object of a completion choice; `offset` in characters of the text."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(_text(entry.chosen))
    return {
        "tokens": [_text(entry.chosen) for entry in entries],
        "token_logprobs": [entry.chosen.logprob for entry in entries],
        "top_logprobs": [{_text(a): a.logprob for a in entry.top} for entry in entries],
        "text_offset": offsets,
    }


def _chat_alternative(alternative: Alternative) -> dict[str, Any]:
    return {
        "token": _text(alternative),
        "bytes": list(alternative.raw),
        "logprob": alternative.logprob,
    }


def _text(alternative: Alternative) -> str:
    return alternative.raw.decode("utf-8", "replace")
