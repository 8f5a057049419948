"""The HTTP application: routes, request ids, and one way of showing errors."""

from __future__ import annotations

import logging
import re
import uuid

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge import __version__
from edge.access.gate import Gate
from edge.api.http.auditing import Auditing
from edge.api.http.batches import batch_routes
from edge.api.http.chains import chain_routes
from edge.api.http.crowd import Crowd
from edge.api.http.doorman import Doorman, no_route
from edge.api.http.durable import DurableDoor
from edge.api.http.embeddings import embedding_routes
from edge.api.http.errors import error_response
from edge.api.http.files import file_routes
from edge.api.http.generate import generate_routes
from edge.api.http.jobs import job_routes
from edge.api.http.kept import kept_routes
from edge.api.http.kserve import kserve_routes
from edge.api.http.models import model_routes
from edge.api.http.nuisances import Refusals
from edge.api.http.openapi import describe_bodies
from edge.api.http.ops import ops_routes
from edge.api.http.responses import response_routes
from edge.api.http.shedding import Shedding
from edge.api.http.switching import switch_routes
from edge.api.http.usage import usage_routes
from edge.api.http.vision import vision_routes
from edge.batches.batcher import Batcher
from edge.chains.chains import Chains
from edge.errors import EdgeError, InternalError, InvalidRequest, MethodNotAllowed
from edge.jobs.backlog import BacklogReader
from edge.jobs.dispatcher import Dispatcher
from edge.service import Service
from edge.store.files import Files
from edge.switching.switches import Switches

logger = logging.getLogger(__name__)

USABLE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def make_app(
    service: Service,
    chains: Chains,
    dispatcher: Dispatcher,
    files: Files,
    batcher: Batcher,
    switches: Switches,
    backlog: BacklogReader,
    gate: Gate,
) -> FastAPI:
    """The application on top of a running service. `state.crowd` is to know its connections."""
    # The interactive pages of FastAPI load scripts from the internet, which is not there.
    app = FastAPI(title="edge", version=__version__, docs_url=None, redoc_url=None)
    app.state.crowd = Crowd(lambda: service.config.limits, service.metrics)
    durable = DurableDoor(service, dispatcher)
    app.include_router(generate_routes(service, durable))
    app.include_router(response_routes(service, durable))
    app.include_router(vision_routes(service, durable))
    app.include_router(embedding_routes(service, durable))
    app.include_router(chain_routes(service, chains, durable))
    app.include_router(file_routes(files, int(service.config.queue.max_file_mb * 1024 * 1024)))
    app.include_router(batch_routes(batcher))
    app.include_router(kserve_routes(service))
    app.include_router(job_routes(dispatcher))
    app.include_router(kept_routes(files, batcher))
    app.include_router(model_routes(service))
    app.include_router(usage_routes())
    app.include_router(ops_routes(service, switches, backlog))
    app.include_router(switch_routes(switches))
    app.add_exception_handler(EdgeError, _edge_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _bug)
    limit = int(service.config.limits.max_body_mb * 1024 * 1024)
    app.add_middleware(Doorman, gate=gate, limit=limit)
    app.add_middleware(Shedding, ceiling=service.ceiling)
    if service.audit is not None:
        app.add_middleware(Auditing, audit=service.audit)
    app.add_middleware(RequestId)
    app.add_middleware(Refusals, nuisances=app.state.crowd.nuisances)
    describe_bodies(app)
    return app


class RequestId:
    """Gives every request an id, the caller's if it sent a usable one, and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        own = given if USABLE_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", own)]
            await send(message)

        await self.app(scope, receive, send_with_id)


async def _edge_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeError)
    return error_response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        where = f"{request.method} {request.url.path}"
        other = MethodNotAllowed(f"{where}: this route has other methods")
        refusal = error_response(other, request.url.path)
        refusal.headers.update(error.headers or {})  # `Allow`
        return refusal
    return error_response(no_route(request), request.url.path)


async def _bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    wrong = InvalidRequest(f"`{name}`: {first['msg']}", param=name)
    return error_response(wrong, request.url.path)


async def _client_left(_: Request, error: Exception) -> Response:
    # Nobody reads it; the number is nginx's for the same case.
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    bug = InternalError("the appliance failed; its log says how")
    return error_response(bug, request.url.path)
