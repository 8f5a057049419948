"""The routes of models that read texts: /v1/embeddings and /v1/rerank."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from edge.api.http.caller import caller_of
from edge.api.http.doorman import visitor_of
from edge.api.http.durable import DurableDoor, Keeping
from edge.api.http.generate import read
from edge.api.http.openapi import json_body
from edge.api.http.stream import while_connected
from edge.errors import NoRoute, UnsupportedParameter
from edge.jobs.intake import embed_job
from edge.openai.embeddings import EmbeddingBody, embedding_answer, embedding_work
from edge.openai.rerank import RerankBody, rerank_answer, rerank_work
from edge.openai.schema import EdgeOptions, RequestBody
from edge.service import Service
from edge.tensors import Inference, Inferred, Work
from edge.texts import Task


def embedding_routes(service: Service, durable: DurableDoor) -> APIRouter:
    router = APIRouter(tags=["texts"])

    async def chosen(http: Request, body: RequestBody, task: Task) -> str:
        """The model for it, if the caller's key is for that one."""
        options, visitor = body.edge or EdgeOptions(), visitor_of(http)
        if body.model not in (None, "default"):  # before it is said whether it is there
            visitor.check(body.model, options.priority, options.route)
        model = await service.texts.choose(task, body.model)
        visitor.check(model, options.priority, options.route)
        return model

    async def computed(http: Request, body: RequestBody, model: str, work: Work) -> Inferred:
        options = body.edge or EdgeOptions()
        if options.route == "cloud":
            raise NoRoute("texts are read by models of this appliance only", param="edge.route")
        deadline = None
        if options.deadline_ms is not None:
            deadline = time.monotonic() + options.deadline_ms / 1000
        inference = Inference(
            id=http.state.request_id,
            model=model,
            work=work,
            priority=options.priority,
            deadline=deadline,
            caller=caller_of(http),
            may_wait=options.allow_queue,
        )
        return await while_connected(http, service.infer(inference, "http"))

    @router.post("/v1/embeddings", openapi_extra=json_body("EmbeddingBody"))
    async def embeddings(http: Request) -> Response:
        """Vectors of texts, as OpenAI's API has them."""
        body = await read(http, service, EmbeddingBody)
        model = await chosen(http, body, "embed")
        options = body.edge or EdgeOptions()
        keeping = Keeping(options, partial(embed_job, service, model, body))
        return await durable.respond_whole(http, keeping, lambda: live(http, body, model))

    async def live(http: Request, body: EmbeddingBody, model: str) -> Response:
        inferred = await computed(http, body, model, embedding_work(body))
        pieces = []
        for piece in embedding_answer(body, inferred):
            pieces.append(piece)
            await asyncio.sleep(0)  # streams of others go on between the pieces
        return _answer(b"".join(pieces), inferred)

    @router.post("/v1/rerank", openapi_extra=json_body("RerankBody"))
    async def rerank(http: Request) -> Response:
        """How well documents answer a query, the best first, as Cohere and Jina have it."""
        body = await read(http, service, RerankBody)
        _check_at_once(body.edge or EdgeOptions())
        model = await chosen(http, body, "rerank")
        inferred = await computed(http, body, model, rerank_work(body))
        answer = rerank_answer(body, inferred, f"rerank-{http.state.request_id}")
        return _answer(msgspec.json.encode(answer), inferred)

    return router


def _check_at_once(options: EdgeOptions) -> None:
    if options.route == "queue" or options.webhook is not None:
        raise UnsupportedParameter(
            "documents are ranked at once, and not kept for later",
            param="edge.webhook" if options.webhook is not None else "edge.route",
        )


def _answer(body: bytes, inferred: Inferred) -> Response:
    headers = {"X-Edge-Route": "local", "X-Edge-Model": inferred.model, "X-Edge-Attempts": "1"}
    return Response(body, headers=headers, media_type="application/json")
