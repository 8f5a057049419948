"""The routes of /v1/batches: files of requests that are answered when there is time."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from edge.api.http.body import read_body
from edge.api.http.doorman import visitor_of
from edge.api.http.durable import idempotency_key
from edge.api.http.files import page
from edge.api.http.openapi import json_body
from edge.batches.batcher import Batcher
from edge.errors import InvalidRequest
from edge.openai.batch import BatchBody, BatchObject, Errors, RequestCounts
from edge.openai.parse import decode
from edge.openai.render import encode
from edge.store.batch import Batch, NewBatch

WINDOW_SECONDS = 24 * 3600.0
"""Of a `completion_window` of 24h, the only one there is."""

BODY_BYTES = 256 * 1024

ENDED = ("completed", "failed", "expired")


def batch_routes(batcher: Batcher) -> APIRouter:
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    @router.post("", openapi_extra=json_body("BatchBody"))
    async def create(http: Request) -> Response:
        """Answer the requests in a file, one in each line, within 24 hours."""
        visitor = visitor_of(http)
        visitor.check_priority("batch")
        body = decode(await read_body(http, BODY_BYTES), BatchBody)
        metadata, keep = body.metadata, body.output_expires_after
        new = NewBatch(
            input=body.input_file_id,
            endpoint=body.endpoint,
            window=WINDOW_SECONDS,
            metadata=None if metadata is None else encode(metadata).decode(),
            output_ttl=None if keep is None else keep.seconds,
            key=idempotency_key(http),
            digest=hashlib.sha256(encode(body)).digest(),
            owner=visitor.owner,
        )
        batch = await batcher.add(new, visitor.owners)
        return _json(batch, {} if batch.id == new.id else {"Idempotent-Replayed": "true"})

    @router.get("")
    async def list_batches(
        http: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
    ) -> Response:
        """The caller's, the latest first; `after` is the last id of the page before."""
        found = await batcher.recent(limit + 1, after, visitor_of(http).owners)
        body = encode(page([_object(batch) for batch in found], limit))
        return Response(body, media_type="application/json")

    @router.get("/{batch_id}")
    async def batch(http: Request, batch_id: str) -> Response:
        """How far it is, and where its outputs are."""
        return _json(await batcher.get(batch_id, visitor_of(http).owners))

    @router.post("/{batch_id}/cancel")
    async def cancel(http: Request, batch_id: str) -> Response:
        """Answer no more of it; what was answered is in its output."""
        batch = await batcher.cancel(batch_id, visitor_of(http).owners)
        if batch.status in ENDED:
            raise InvalidRequest(f"a batch that is {batch.status} cannot be cancelled")
        return _json(batch)

    return router


def _json(batch: Batch, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(_object(batch)), headers=headers, media_type="application/json")


def _object(batch: Batch) -> BatchObject:
    def ended(status: str) -> int | None:
        return _seconds(batch.ended) if batch.status == status else None

    errors, metadata = batch.errors, batch.metadata
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=None if errors is None else msgspec.json.decode(errors, type=Errors),
        input_file_id=batch.input,
        status=batch.status,
        output_file_id=batch.output,
        error_file_id=batch.error,
        created_at=int(batch.created),
        in_progress_at=_seconds(batch.started),
        expires_at=int(batch.expires),
        finalizing_at=_seconds(batch.finalizing),
        completed_at=ended("completed"),
        failed_at=ended("failed"),
        expired_at=ended("expired"),
        cancelling_at=_seconds(batch.cancelling),
        cancelled_at=ended("cancelled"),
        request_counts=RequestCounts(batch.total, batch.completed, batch.failed),
        metadata=None if metadata is None else msgspec.json.decode(metadata, type=dict[str, str]),
    )


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
