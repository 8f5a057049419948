"""The routes of /v1/files: input of batches comes in, their output is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from edge.api.http.doorman import visitor_of
from edge.api.http.upload import receive
from edge.errors import InvalidRequest
from edge.openai.batch import ExpiresAfter, FileObject
from edge.openai.render import encode
from edge.store.files import FileFacts, Files

PURPOSE = "batch"

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"const": PURPOSE},
                        "expires_after[anchor]": {"const": "created_at"},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                }
            }
        },
    }
}


def file_routes(files: Files, max_bytes: int) -> APIRouter:
    router = APIRouter(prefix="/v1/files", tags=["batches"])

    @router.post("", openapi_extra=FORM)
    async def upload(http: Request) -> Response:
        """Keep a JSONL file for a batch, as multipart/form-data with `purpose` batch."""
        async with files.draft() as draft:
            form = await receive(http, files, draft, max_bytes)
            ttl = _checked(form.fields)
            if draft.size == 0:
                raise InvalidRequest("the file is empty", param="file")
            name, owner = form.filename or "file", visitor_of(http).owner
            facts = await files.keep(draft, name, PURPOSE, ttl, owner)
        return _json(_object(facts))

    @router.get("")
    async def list_files(
        http: Request,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Response:
        """The caller's files, the latest first; `after` is the last id of the page before."""
        newest_first, owners = order == "desc", visitor_of(http).owners
        found = await files.list(purpose, limit + 1, after, newest_first, owners)
        return _json(page([_object(one) for one in found], limit))

    @router.get("/{file_id}")
    async def file(http: Request, file_id: str) -> Response:
        """What is known of one file."""
        return _json(_object(await files.get(file_id, visitor_of(http).owners)))

    @router.get("/{file_id}/content")
    async def content(http: Request, file_id: str) -> Response:
        """What is in it."""
        facts, path = await files.contents(file_id, visitor_of(http).owners)
        return FileResponse(path, media_type="application/jsonl", filename=facts.name)

    @router.delete("/{file_id}")
    async def delete(http: Request, file_id: str) -> Response:
        """Remove it; 409 while a batch needs it."""
        await files.delete(file_id, visitor_of(http).owners)
        return _json({"id": file_id, "object": "file", "deleted": True})

    return router


def page(found: Sequence[Any], limit: int) -> dict[str, Any]:
    """A page of OpenAI's lists, from one entry more than it has."""
    shown = found[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": len(found) > limit,
    }


def _checked(fields: Mapping[str, str]) -> float | None:
    """Seconds that the file is to be kept, None for the usual. Raises `InvalidRequest`."""
    purpose = fields.get("purpose")
    if purpose != PURPOSE:
        raise InvalidRequest(
            "purpose is missing" if purpose is None else f"no files of purpose {purpose!r} here",
            param="purpose",
            hint="use purpose `batch`",
        )
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown := sorted(set(fields) - known):
        raise InvalidRequest(f"unknown field `{unknown[0]}`", param=unknown[0])
    given = {
        name: fields[f"expires_after[{name}]"]
        for name in ("anchor", "seconds")
        if f"expires_after[{name}]" in fields
    }
    if not given:
        return None
    try:
        return msgspec.convert(given, ExpiresAfter, strict=False).seconds
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"expires_after: {error}", param="expires_after") from None


def _object(facts: FileFacts) -> FileObject:
    return FileObject(
        facts.id,
        facts.size,
        int(facts.created),
        int(facts.expires),
        facts.name,
        facts.purpose,
    )


def _json(answer: Any) -> Response:
    return Response(encode(answer), media_type="application/json")
