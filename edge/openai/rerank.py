"""The bodies and answers of /v1/rerank, as Cohere and Jina have them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edge.errors import InvalidRequest
from edge.openai.render import Origin, origin_of
from edge.openai.schema import Body, RequestBody
from edge.tensors import Inferred, PairWork, Scores

MOST_DOCUMENTS = 2048


class DocumentBody(Body, kw_only=True):
    """What Jina's and Cohere's older form have in place of a text."""

    text: str


class RerankBody(RequestBody, kw_only=True):
    """POST /v1/rerank"""

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | DocumentBody], Meta(min_length=1, max_length=MOST_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = False


class Ranked(msgspec.Struct, omit_defaults=True):
    """index: of the document in the request."""

    index: int
    relevance_score: float
    document: DocumentBody | None = None


class RankedUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class RerankAnswer(msgspec.Struct):
    """results: the most relevant first. edge: where it is from, which only we have."""

    id: str
    model: str
    results: list[Ranked]
    usage: RankedUsage
    edge: Origin


def rerank_work(body: RerankBody) -> PairWork:
    """Raises `InvalidRequest` for a query that is blank."""
    if not body.query.strip():
        raise InvalidRequest("query is empty", param="query")
    return PairWork(body.query, [_text(document) for document in body.documents])


def rerank_answer(body: RerankBody, inferred: Inferred, request_id: str) -> RerankAnswer:
    """Documents with equal scores stay in their order."""
    scores = inferred.result
    assert isinstance(scores, Scores)
    found = [Ranked(at, score) for at, score in enumerate(scores.scores)]
    found.sort(key=lambda ranked: -ranked.relevance_score)
    found = found[: body.top_n]
    if body.return_documents:
        for ranked in found:
            ranked.document = DocumentBody(text=_text(body.documents[ranked.index]))
    usage, model = RankedUsage(scores.tokens, scores.tokens), body.model or inferred.model
    return RerankAnswer(request_id, model, found, usage, origin_of(inferred))


def _text(document: str | DocumentBody) -> str:
    return document if isinstance(document, str) else document.text
