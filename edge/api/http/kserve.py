"""The routes of /v2: KServe's Open Inference Protocol, with Triton's extensions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from edge import __version__
from edge.api.http.body import read_body
from edge.api.http.caller import caller_of
from edge.api.http.doorman import visitor_of
from edge.api.http.encoding import decoded, encoded, wanted
from edge.api.http.openapi import json_body
from edge.api.http.stream import while_connected
from edge.api.http.vision import PictureDoor, is_picture
from edge.aside import Aside
from edge.errors import EdgeError, InvalidRequest, ModelNotFound, NoRoute
from edge.inference.models import OnnxModels
from edge.kserve import parse, render
from edge.kserve.metadata import (
    READY,
    IndexEntry,
    index_entry,
    model_config,
    model_metadata,
    server_metadata,
)
from edge.kserve.parse import Asked, decode
from edge.kserve.render import Rendered
from edge.kserve.schema import IndexBody
from edge.openai.parse import with_headers
from edge.openai.schema import EdgeOptions
from edge.service import Service
from edge.tensors import Inference, OnnxFacts

HEADER_LENGTH = "Inference-Header-Content-Length"

INDEX_BYTES = 65_536

LONGEST_NUMBER = 18
"""Digits of a number in a path or header: far more than any that is true, and cheap to read."""

VERSION = {
    "parameters": [
        {"name": "version", "in": "path", "required": True, "schema": {"type": "integer"}}
    ]
}


def kserve_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["tensors"])
    door, pictures = TensorDoor(service), PictureDoor(service)

    def for_model(method: str, path: str, **more: Any) -> Callable[[Any], Any]:
        """Adds a route for the version that the model's folder prefers, and one for any."""

        def add(endpoint: Any) -> Any:
            plain = f"/models/{{name}}{path}"
            versioned = f"/models/{{name}}/versions/{{version}}{path}"
            router.add_api_route(plain, endpoint, methods=[method], openapi_extra=more)
            router.add_api_route(
                versioned, endpoint, methods=[method], openapi_extra={**more, **VERSION}
            )
            return endpoint

        return add

    @router.get("")
    async def server() -> Response:
        """The server's name and version, and the extensions of the protocol that it knows."""
        return _json(server_metadata(__version__))

    @router.get("/health/live")
    async def live() -> Response:
        """The daemon is alive."""
        return _json({"live": True})

    @router.get("/health/ready")
    async def ready() -> Response:
        """200 when every model that is to be loaded can answer now, else 503."""
        return _readiness({"ready": service.ready}, service.ready)

    @for_model("GET", "")
    async def model(name: str, http: Request) -> Response:
        """Inputs and outputs of an ONNX model, and its versions."""
        facts = await door.facts(name, http)
        return _json(model_metadata(facts, service.onnx.versions(name)))

    @for_model("GET", "/config")
    async def config(name: str, http: Request) -> Response:
        """The same as Triton's model configuration."""
        return _json(model_config(await door.facts(name, http)))

    @for_model("GET", "/ready")
    async def model_ready(name: str, http: Request) -> Response:
        """200 when the model can answer, loaded or not, else 503."""
        visitor_of(http).check_model(name)
        can = service.onnx.is_ready(name, _version(http))
        return _readiness({"name": name, "ready": can}, can)

    @for_model("POST", "/infer", **json_body("InferBody"))
    async def infer(name: str, http: Request) -> Response:
        """Compute tensors from tensors, in JSON or with binary data behind it; or see a picture."""
        if is_picture(http):
            asked = await pictures.ask(http, name)
            return await pictures.look(http, name, asked, _version(http))
        return await door.infer(name, http)

    @router.post("/repository/index")
    async def index(http: Request) -> Response:
        """The ONNX models that are installed, with their versions and whether they can answer."""
        asked = decode(await read_body(http, INDEX_BYTES) or b"{}", IndexBody)
        return _json(_index(service.onnx, asked.ready))

    return router


class TensorDoor:
    """From HTTP requests with tensors to answers with tensors."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._aside = Aside()
        self._limit = int(service.config.limits.max_body_mb * 1024 * 1024)

    async def facts(self, name: str, http: Request) -> OnnxFacts:
        """Loads the model, which is why not everybody may ask."""
        visitor_of(http).check_model(name)
        return await self._service.onnx.facts(name, _version(http))

    async def infer(self, name: str, http: Request) -> Response:
        began = time.monotonic()
        asked = await self._asked(http)
        inference = _inference(name, http, asked, began)
        inferred = await while_connected(http, self._service.infer(inference, "http"))
        size = render.effort(inferred, asked)
        rendered = await self._aside.run(size, render.render, inferred, asked)
        return await self._answer(rendered, http, inferred.model)

    async def _asked(self, http: Request) -> Asked:
        """What the body says. It is not kept while its tensors are computed with."""
        length = _header_length(http)
        raw = await read_body(http, self._limit)
        coding = http.headers.get("content-encoding", "").strip().lower()
        size = self._limit if coding else parse.effort(raw, length)
        return await self._aside.run(size, _read, raw, coding, length, self._limit)

    async def _answer(self, rendered: Rendered, http: Request, model: str) -> Response:
        headers = {"X-Edge-Route": "local", "X-Edge-Model": model}
        body, kind = rendered.header + rendered.binary, "application/json"
        if rendered.binary:
            headers[HEADER_LENGTH] = str(len(rendered.header))
            kind = "application/octet-stream"
        if coding := wanted(http.headers.get("accept-encoding", "")):
            headers |= {"Content-Encoding": coding, "Vary": "Accept-Encoding"}
            body = await self._aside.run(len(body), encoded, body, coding)
        return Response(body, headers=headers, media_type=kind)


def _read(raw: bytes, coding: str, header_length: int | None, limit: int) -> Asked:
    return parse.parse(decoded(raw, coding, limit), header_length)


def _inference(name: str, http: Request, asked: Asked, began: float) -> Inference:
    """began: when the request came, by time.monotonic(). Headers win over the body.

    Raises `Forbidden` for what the caller's key is not for.
    """
    version = _version(http)
    path = {"model_name": name, "model_version": "" if version is None else str(version)}
    body = {"model_name": asked.model_name, "model_version": asked.model_version}
    for field, told in body.items():
        if told and told != path[field]:
            raise InvalidRequest(f"`{field}`: `{told}` is not what the path says", param=field)
    options = with_headers(EdgeOptions(priority=asked.priority), http.headers)
    if options.route not in ("auto", "local"):
        raise NoRoute(f"`{name}` is asked here and now, or not at all", param="edge.route")
    visitor_of(http).check(name, options.priority, options.route)
    timeout = asked.timeout if options.deadline_ms is None else options.deadline_ms / 1000
    return Inference(
        id=http.state.request_id,
        model=name,
        work=asked.work,
        version=version,
        priority=options.priority,
        deadline=None if timeout is None else began + timeout,
        caller=caller_of(http),
    )


def _version(http: Request) -> int | None:
    """That the path names, None for the one that the model's folder prefers."""
    text = http.path_params.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER):
        raise InvalidRequest(f"the version `{text[:99]}` is no number", param="version")
    return int(text)


def _header_length(http: Request) -> int | None:
    text = http.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER):
        raise InvalidRequest(f"{HEADER_LENGTH} is no number of bytes: `{text[:99]}`")
    return int(text)


def _index(models: OnnxModels, only_ready: bool) -> list[IndexEntry]:
    found = [entry for name in models.names() for entry in _entries(models, name)]
    return [entry for entry in found if entry.state == READY or not only_ready]


def _entries(models: OnnxModels, name: str) -> list[IndexEntry]:
    """Of each version; of a folder with a fault, which hides them, one."""
    try:
        versions = models.versions(name)
        return [index_entry(name, one, models.problem(name, one)) for one in versions]
    except ModelNotFound:  # it was removed in this moment
        return []
    except EdgeError as error:
        return [index_entry(name, None, error)]


def _readiness(body: dict[str, Any], ready: bool) -> Response:
    if ready:
        return _json(body)
    return Response(
        msgspec.json.encode(body),
        status_code=503,
        headers={"Retry-After": "1"},
        media_type="application/json",
    )


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
