"""Texts to token ids, with the tokenizer that lies beside a model.

Runs in the worker's preparation threads. A tokenizer is not changed after it was made, so that
threads may share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from edge.errors import BadModelFile, ContextLengthExceeded, InvalidRequest
from edge.repository.text import TextSettings
from edge.tensors import TextWork

LONGEST_TOKEN = 64
"""Characters; a text that has more for each of the tokens it may have is not tokenized at all."""


class Row(NamedTuple):
    """What the model reads at once. types: 0 for a text or a query, 1 for its document."""

    ids: list[int]
    types: list[int]


class Tokens:
    """The tokenizer of one model. Raises `BadModelFile` where its file is none."""

    def __init__(self, path: Path, settings: TextSettings) -> None:
        self._settings = settings
        self._texts = _read(path)
        self._pairs = _read(path)
        if settings.too_long == "truncate":
            self._texts.enable_truncation(settings.max_tokens)
        self._pairs.enable_truncation(settings.max_tokens, strategy="only_second")
        self._beside_pair = self._pairs.num_special_tokens_to_add(True)
        self.size: int = self._texts.get_vocab_size(with_added_tokens=True)
        self.padding: int = self._texts.token_to_id("[PAD]") or 0

    def of(self, work: TextWork) -> list[Row]:
        """Raises `ContextLengthExceeded`, and `InvalidRequest` with the text at fault."""
        texts = [one for one in work.texts if isinstance(one, str)]
        if len(texts) == len(work.texts):
            return self._of_texts(texts, work.kind)
        if texts:
            raise InvalidRequest("input is texts or token ids, not a mixture", param="input")
        return self._of_ids([one for one in work.texts if not isinstance(one, str)], work.kind)

    def _of_texts(self, texts: Sequence[str], kind: str | None) -> list[Row]:
        prefix = self._prefix(kind)
        bound = self._settings.max_tokens * LONGEST_TOKEN
        asked = [self._within(f"input[{at}]", text, bound) for at, text in enumerate(texts)]
        found = self._texts.encode_batch_fast([prefix + text for text in asked])
        rows = [Row(one.ids, one.type_ids) for one in found]
        for at, row in enumerate(rows):
            self._check_length(f"input[{at}]", len(row.ids))
        return rows

    def _of_ids(self, texts: Sequence[list[int]], kind: str | None) -> list[Row]:
        """As they are: nothing is added to them."""
        if kind is not None:
            raise InvalidRequest("input_type is for texts, not for token ids", param="input_type")
        rows = []
        for at, ids in enumerate(texts):
            if not ids:
                raise InvalidRequest(f"input[{at}] is empty", param=f"input[{at}]")
            if self._settings.too_long == "truncate":
                ids = ids[: self._settings.max_tokens]
            self._check_length(f"input[{at}]", len(ids))
            if not 0 <= min(ids) <= max(ids) < self.size:
                raise InvalidRequest(
                    f"input[{at}] names a token that is not one of this model's, which are 0 to "
                    f"{self.size - 1}",
                    param=f"input[{at}]",
                )
            rows.append(Row(ids, [0] * len(ids)))
        return rows

    def of_pairs(self, query: str, documents: Sequence[str]) -> list[Row]:
        """The query with each document, which is cut to what fits beside it.

        Raises `ContextLengthExceeded` for a query that leaves it no room.
        """
        most = self._settings.max_tokens
        if len(query) > most * LONGEST_TOKEN:
            raise _too_long("query", f"has {len(query)} characters", most)
        alone = len(self._texts.encode(query, add_special_tokens=False).ids)
        if alone + self._beside_pair >= most:
            raise _too_long("query", f"has {alone} tokens and leaves no room for a document", most)
        cut = [(query, document[: most * LONGEST_TOKEN]) for document in documents]
        return [Row(one.ids, one.type_ids) for one in self._pairs.encode_batch_fast(cut)]

    def _prefix(self, kind: str | None) -> str:
        known = self._settings.prefixes
        if kind is None:
            return ""
        if kind not in known:
            names = ", ".join(known) or "none"
            raise InvalidRequest(
                f"input_type {kind!r}: of this model's kinds there are: {names}", param="input_type"
            )
        return known[kind]

    def _within(self, param: str, text: str, bound: int) -> str:
        if not text:
            raise InvalidRequest(f"{param} is empty", param=param)
        if len(text) > bound and self._settings.too_long == "refuse":
            most = self._settings.max_tokens
            raise _too_long(param, f"has {len(text)} characters", most)
        return text[:bound]

    def _check_length(self, param: str, length: int) -> None:
        if length > self._settings.max_tokens:
            raise _too_long(param, f"has {length} tokens", self._settings.max_tokens)


def _read(path: Path) -> Tokenizer:
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BadModelFile(f"{path} is no tokenizer: {error}") from None
    found.no_padding()
    found.no_truncation()
    return found


def _too_long(param: str, what: str, most: int) -> ContextLengthExceeded:
    return ContextLengthExceeded(f"{param} {what}, and this model reads {most}", param=param)
