"""Loads the model that drafts for another, beside it, and refuses one that cannot.

A named model that is of no use is refused and not left out: an appliance that is slower than it was
set up to be, without a word, is a defect that nobody sees.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.engine.llama import LlamaBackend, LlamaLog, LlamaVocabulary
from edge.errors import ModelLoadFailed
from edge.types import EngineSettings

PADDING = 128
"""Most by which two vocabularies of one family differ in size. These rules are llama.cpp's
(common/speculative.cpp): padding differs within families, and so do the first tokens' texts."""

FIRST_COMPARED = 5


class DraftBackend(LlamaBackend):
    """A second model, with the slots and the context of the first, as far as it was trained."""

    def _context_wanted(self, settings: EngineSettings, trained: int) -> int:
        return min(settings.context, trained)


def load_draft(first: LlamaBackend, settings: EngineSettings, log: LlamaLog) -> DraftBackend:
    """The model that the settings name. Raises `ModelLoadFailed` with the key to change."""
    key, name = f"models.drafts.{first.name}", settings.draft_model
    hint = f"name a smaller model of the same family, or take {key} away"
    if not first.can_truncate:
        raise ModelLoadFailed(
            f"{key}: {first.name} cannot take a token back, so nothing can draft for it",
            hint=f"take {key} away",
        )
    own = msgspec.structs.replace(
        settings, slots=first.slots, context=first.context, kv_type=first.kv_type
    )
    second = DraftBackend(name, Path(settings.draft_path), own, log)
    if not second.can_truncate:
        raise ModelLoadFailed(f"{key}: {name} cannot draft: it cannot take a token back", hint=hint)
    if found := difference(first.vocabulary, second.vocabulary):
        raise ModelLoadFailed(f"{key}: {name} cannot draft for {first.name}: {found}", hint=hint)
    return second


def difference(first: LlamaVocabulary, second: LlamaVocabulary) -> str | None:
    """Why the tokens of the two do not mean the same, None if they do."""
    if first.kind != second.kind:
        return "their tokenizers are of different kinds"
    if first.begins_with != second.begins_with or first.ends_with != second.ends_with:
        return "their texts begin or end with different tokens"
    if abs(first.size - second.size) > PADDING:
        return f"it has {second.size} tokens in place of {first.size}"
    for token in range(FIRST_COMPARED, min(first.size, second.size)):
        mine, other = first.spelling(token), second.spelling(token)
        if mine != other:
            return f"its token {token} is {other!r} in place of {mine!r}"
    return None
