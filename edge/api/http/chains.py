"""The routes to chains: a picture in, what was seen in it and a text about it out."""

from __future__ import annotations

import time
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from edge.api.http.body import read_body
from edge.api.http.caller import caller_of
from edge.api.http.doorman import visitor_of
from edge.api.http.durable import DurableDoor, Keeping
from edge.api.http.stream import while_connected
from edge.api.http.vision import PICTURE_TYPES
from edge.aside import Aside
from edge.chains.body import ChainAnswer, ChainBody, body_of_json
from edge.chains.chains import Chains, Whose
from edge.config.answering import Chain
from edge.errors import InvalidRequest
from edge.jobs.intake import chain_job
from edge.jobs.permit import permit
from edge.openai.parse import with_headers
from edge.openai.render import encode
from edge.report_prompt import fields_of_texts
from edge.service import Service

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string"}},
                }
            },
        },
    }
}
"""As OpenAPI has it. The properties beside `image` are those of the chain."""


def chain_routes(service: Service, chains: Chains, durable: DurableDoor) -> APIRouter:
    router = APIRouter(tags=["chains"])
    aside = Aside()
    limit = int(service.config.limits.max_body_mb * 1024 * 1024)

    @router.post("/v1/chains/{name}", openapi_extra=BODY)
    async def run(name: str, http: Request) -> Response:
        """Look at a picture, as it is or as `image` in JSON, and write about what was seen."""
        chain = chains[name]
        raw = await read_body(http, limit)
        body = await aside.run(len(raw), _body, http, chain, raw)
        body.options = with_headers(body.options, http.headers)
        models = (chain.see, chains.writer(name))
        body.options = permit(visitor_of(http), body.options, *models)
        keeping = Keeping(body.options, partial(chain_job, chains, name, body))
        return await durable.respond_whole(http, keeping, lambda: live(http, name, body))

    async def live(http: Request, name: str, body: ChainBody) -> Response:
        given = body.options.deadline_ms
        whose = Whose(
            http.state.request_id,
            "http",
            caller_of(http),
            deadline=None if given is None else time.monotonic() + given / 1000,
            created=int(time.time()),
        )
        chains.check(name, body)
        answer = await while_connected(http, chains.run(name, body, whose))
        return Response(encode(answer), headers=_headers(answer), media_type="application/json")

    return router


def _body(http: Request, chain: Chain, raw: bytes) -> ChainBody:
    """A picture with fields in the query, or JSON. Raises `InvalidRequest`."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return body_of_json(raw)
    if not kind.startswith(PICTURE_TYPES):
        raise InvalidRequest(
            f"a body of the content type `{kind[:99]}` is no picture",
            param="image",
            hint="send it as image/jpeg or image/png, or in JSON as `image`",
        )
    return ChainBody(raw, fields_of_texts(chain.fields, http.query_params))


def _headers(answer: ChainAnswer) -> dict[str, str]:
    return {
        "X-Edge-Route": answer.edge.route,
        "X-Edge-Model": answer.edge.model,
        "X-Edge-Attempts": str(len(answer.edge.attempts)),
    }
