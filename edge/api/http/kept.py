"""The routes to everybody's files and batches, for those who look after the appliance:
/admin/v1/files and /admin/v1/batches. What is in a file is for its owner alone."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from edge.batches.batcher import Batcher
from edge.openai.render import encode
from edge.store.files import Files

Limit = Annotated[int, Query(ge=1, le=1000)]


def kept_routes(files: Files, batcher: Batcher) -> APIRouter:
    router = APIRouter(prefix="/admin/v1", tags=["admin"])

    @router.get("/files")
    async def list_files(limit: Limit = 100, after: str | None = None) -> Response:
        """Whose they are, the latest first; `after` is the last id of the page before."""
        found = await files.list(None, limit, after)
        return _json({"files": [msgspec.structs.asdict(one) for one in found]})

    @router.delete("/files/{file_id}")
    async def delete(file_id: str) -> Response:
        """Remove it; 409 while a batch needs it."""
        await files.delete(file_id)
        return _json({"deleted": file_id})

    @router.get("/batches")
    async def list_batches(limit: Limit = 100, after: str | None = None) -> Response:
        """Whose they are, the latest first; `after` is the last id of the page before."""
        found = await batcher.recent(limit, after)
        return _json({"batches": [msgspec.structs.asdict(one) for one in found]})

    @router.post("/batches/{batch_id}/cancel")
    async def cancel(batch_id: str) -> Response:
        """Answer no more of it; as it is if it was at its end before."""
        return _json(msgspec.structs.asdict(await batcher.cancel(batch_id)))

    return router


def _json(answer: object) -> Response:
    return Response(encode(answer), media_type="application/json")
