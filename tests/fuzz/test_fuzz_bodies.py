"""Whatever a body is, its parser makes something of it or refuses it: no other error comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import seeds
from duration import rounds
from mutator import payload

from edge.api.mqtt import prompt
from edge.chains.body import body_of_json
from edge.errors import EdgeError
from edge.kserve.parse import parse as parse_tensors
from edge.openai import ask, parse
from edge.openai.batch import BatchBody
from edge.openai.embeddings import EmbeddingBody, embedding_work
from edge.openai.pictures import PictureBody, picture_work
from edge.openai.rerank import RerankBody, rerank_work


def asked(kind: str) -> Callable[[bytes], object]:
    """Also what is kept of it has to be a body again."""

    def read(raw: bytes) -> object:
        body = ask.decode(kind, raw)
        parse.merge_headers(body, {"x-edge-priority": "batch"})
        again = ask.decode(kind, ask.encode(body))
        return ask.ask(again, "id")

    return read


def enveloped(raw: bytes) -> object:
    envelope = prompt.open_envelope(raw)
    envelope.check()
    return prompt.chat_body(envelope)


PARSERS: list[tuple[Any, Callable[[bytes], object]]] = [
    (seeds.CHAT, asked("chat")),
    (seeds.FORMED, asked("chat")),
    (seeds.COMPLETION, asked("completion")),
    (seeds.TOKENS, asked("completion")),
    (seeds.RESPONSE, asked("response")),
    (seeds.EMBEDDING, lambda raw: embedding_work(parse.decode(raw, EmbeddingBody))),
    (seeds.RERANK, lambda raw: rerank_work(parse.decode(raw, RerankBody))),
    (seeds.TENSORS, parse_tensors),
    (seeds.PICTURE, lambda raw: picture_work(parse.decode(raw, PictureBody))),
    (seeds.PICTURE, body_of_json),
    (seeds.BATCH, lambda raw: parse.decode(raw, BatchBody)),
    (seeds.PROMPT, enveloped),
]


@pytest.mark.parametrize(("value", "read"), PARSERS)
def test_the_seeds_are_right(value: Any, read: Callable[[bytes], object]) -> None:
    """Or nothing that is made of them would get far."""
    read(msgspec.json.encode(value))


def test_bodies() -> None:
    """In turns, so that each has its part of the time."""
    accepted = refused = 0
    for chance in rounds():
        for value, read in PARSERS:
            raw = payload(chance, value)
            try:
                read(raw)
                accepted += 1
            except EdgeError:
                refused += 1
            except Exception as bug:
                raise AssertionError(f"{type(bug).__name__} of {raw!r}") from bug
    print(f"{accepted} bodies accepted, {refused} refused")  # noqa: T201
    assert accepted
    assert refused
