"""Tokens of a text that goes on where another ended."""

from __future__ import annotations

from edge.engine.backend import Vocabulary


def tokens_behind(vocabulary: Vocabulary, text: str, *, special: bool) -> list[int]:
    """Those that stand for this text and nothing else; `special` parses control tokens.

    SentencePiece vocabularies (TinyLlama, Phi-3) put a blank before a text, and before a line break
    instead if there is one, which is always a token of its own in those.
    """
    tokens = vocabulary.tokenize("\n" + text, special=special, bos=False)
    if [vocabulary.piece(token) for token in tokens[:2]] == [b" ", b"\n"]:
        return tokens[2:]
    return vocabulary.tokenize(text, special=special, bos=False)
