"""Which version answers under a name: /admin/v1/models/{name}/…, for those who look after it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse

from edge.api.http.body import read_body
from edge.errors import NotFound
from edge.openai.parse import decode
from edge.openai.schema import Body
from edge.switching.switch import Order, Progress
from edge.switching.switches import Switches

MOST_BYTES = 65_536


class RollbackBody(Body):
    """anyway: whatever the canaries say. by: who wants it."""

    anyway: bool = False
    by: Annotated[str, Meta(max_length=256)] | None = None


class UseBody(RollbackBody, kw_only=True):
    version: Annotated[int, Meta(ge=1)]


def switch_routes(switches: Switches) -> APIRouter:
    router = APIRouter(prefix="/admin/v1/models", tags=["admin"])

    @router.post("/{name}/use")
    async def use(name: str, http: Request) -> JSONResponse:
        """Begin to serve `{"version": 2}` of the name: 202, and `Location` tells how it goes."""
        body = decode(await read_body(http, MOST_BYTES), UseBody)
        order = Order(name, body.version, body.anyway, body.by)
        return _begun(await switches.use(order))

    @router.post("/{name}/rollback")
    async def rollback(name: str, http: Request) -> JSONResponse:
        """The same for the version that the name meant before."""
        body = decode(await read_body(http, MOST_BYTES) or b"{}", RollbackBody)
        return _begun(await switches.roll_back(name, body.anyway, body.by))

    @router.get("/{name}/switch")
    async def switch(name: str) -> JSONResponse:
        """The last change of the name's version since the start, or 404."""
        progress = switches.last(name)
        if progress is None:
            raise NotFound(f"`{name}` has had the same version since the start")
        return JSONResponse(msgspec.to_builtins(progress))

    return router


def _begun(progress: Progress) -> JSONResponse:
    place = f"/admin/v1/models/{progress.name}/switch"
    return JSONResponse(msgspec.to_builtins(progress), status_code=202, headers={"Location": place})
