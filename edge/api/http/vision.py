"""The routes that look at pictures: one in, as it is, in a form, in JSON or by its address; labels,
boxes and texts out, or the picture with them drawn in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from edge.api.http.body import read_body
from edge.api.http.caller import caller_of
from edge.api.http.doorman import visitor_of
from edge.api.http.durable import DurableDoor, Keeping
from edge.api.http.stream import while_connected
from edge.api.http.upload import Form
from edge.aside import Aside
from edge.cloud.pictures import PictureSource, is_address
from edge.errors import InvalidRequest, NoRoute
from edge.jobs.inferring import InferBody
from edge.jobs.intake import infer_job
from edge.openai.parse import decode, fields_of, with_headers
from edge.openai.pictures import LookBody, PictureBody, picture_answer, picture_bytes
from edge.openai.render import encode
from edge.openai.schema import EdgeOptions
from edge.service import Service
from edge.tensors import Inference, PictureWork, Sighting

Drawn = Literal["jpeg", "png"]

BODY = {
    "parameters": [
        {"name": "top_k", "in": "query", "schema": {"type": "integer"}},
        {"name": "threshold", "in": "query", "schema": {"type": "number"}},
        {"name": "draw", "in": "query", "schema": {"enum": ["jpeg", "png"]}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/PictureBody"}},
        },
    },
}
"""As OpenAPI has it."""

PICTURE_TYPES = ("image/", "application/octet-stream")


def vision_routes(service: Service, durable: DurableDoor) -> APIRouter:
    router = APIRouter(tags=["pictures"])
    door = PictureDoor(service)

    @router.post("/v1/vision/{model}", openapi_extra=BODY)
    async def look(model: str, http: Request) -> Response:
        """Look at a picture: labels, boxes or texts as JSON, or the picture with them drawn in."""
        asked = await door.ask(http, model)
        body = InferBody(picture=asked.work)
        keeping = Keeping(asked.options, partial(infer_job, service, model, body, asked.options))
        return await durable.respond_whole(http, keeping, lambda: door.look(http, model, asked))

    return router


def is_picture(http: Request) -> bool:
    """Whether a request carries a picture, by its content type alone."""
    kind = _content_type(http)
    return kind.startswith("image/") or kind == "multipart/form-data"


@dataclass
class Asked:
    """data: the body, and when it was read the picture. draws: the answer is the picture itself.
    began: when the request came, time.monotonic()."""

    began: float
    data: bytes
    look: LookBody
    options: EdgeOptions
    draws: bool = False

    @property
    def work(self) -> PictureWork:
        return PictureWork(self.data, self.look.top_k, self.look.threshold, self.look.draw)


class PictureDoor:
    """From HTTP requests with pictures to answers about them."""

    def __init__(self, service: Service) -> None:
        config = service.config
        self._service = service
        self._limit = int(config.limits.max_body_mb * 1024 * 1024)
        self._source = PictureSource(config.onnx.picture_hosts, self._limit)
        self._aside = Aside()

    async def ask(self, http: Request, model: str) -> Asked:
        """What a request wants to know. Raises an `EdgeError`."""
        # Before the body, which may have an address fetched.
        visitor_of(http).check_model(model)
        asked = await self._read(http, model)
        asked.options = options = with_headers(asked.options, http.headers)
        visitor_of(http).check(model, options.priority, options.route)
        return asked

    async def look(
        self, http: Request, model: str, asked: Asked, version: int | None = None
    ) -> Response:
        """version: None for the one that the model's folder prefers."""
        options, look = asked.options, asked.look
        if options.route not in ("auto", "local"):
            raise NoRoute(f"`{model}` is asked here and now, or not at all", param="edge.route")
        given = options.deadline_ms
        inference = Inference(
            id=http.state.request_id,
            model=model,
            work=asked.work,
            version=version,
            priority=options.priority,
            deadline=None if given is None else asked.began + given / 1000,
            caller=caller_of(http),
            may_wait=options.allow_queue,
        )
        inferred = await while_connected(http, self._service.infer(inference, "http"))
        assert isinstance(inferred.result, Sighting)
        headers = {"X-Edge-Route": "local", "X-Edge-Model": inferred.model}
        picture = inferred.result.picture
        if asked.draws and picture is not None:
            return Response(picture, headers=headers, media_type=f"image/{look.draw}")
        answer = picture_answer(inferred, inference.id, int(time.time()))
        body = await self._aside.run(len(picture or b""), encode, answer)
        return Response(body, headers=headers, media_type="application/json")

    async def _read(self, http: Request, model: str) -> Asked:
        began, kind = time.monotonic(), _content_type(http)
        raw = await read_body(http, self._limit)
        asked = Asked(began, raw, fields_of(http.query_params, LookBody), EdgeOptions())
        if kind == "application/json":
            await self._read_json(asked, model)
        elif kind == "multipart/form-data":
            form = Form(http.headers["content-type"])
            asked.data = await self._aside.run(len(raw), _file_of, form, raw)
            asked.look = fields_of({**http.query_params, **form.fields}, LookBody)
        elif not kind.startswith(PICTURE_TYPES):
            raise InvalidRequest(
                f"a body of the content type `{kind[:99]}` is no picture",
                param="image",
                hint="send it as image/jpeg or image/png, as the `file` of a form, or in JSON",
            )
        accepted = _accepted(http)
        if accepted in ("jpeg", "png"):
            asked.look.draw = accepted
        asked.draws = accepted != "json" and (accepted is not None or "draw" in http.query_params)
        return asked

    async def _read_json(self, asked: Asked, model: str) -> None:
        """What the body says goes before what the query says."""
        body = await self._aside.run(len(asked.data), decode, asked.data, PictureBody)
        if body.model not in (None, model):
            raise InvalidRequest(
                f"`model`: `{body.model}` is not what the path says", param="model"
            )
        look, asked.options = asked.look, body.edge or asked.options
        look.top_k, look.draw = body.top_k or look.top_k, body.draw or look.draw
        look.threshold = look.threshold if body.threshold is None else body.threshold
        asked.data = await self._picture(body.image)

    async def _picture(self, image: str) -> bytes:
        """Of what stands in JSON: the picture, or its address."""
        if is_address(image):
            return await self._source.fetch(image)
        return await self._aside.run(len(image), picture_bytes, image)


def _file_of(form: Form, raw: bytes) -> bytes:
    """Raises `InvalidRequest`."""
    data = form.feed(raw)
    if not form.complete:
        raise InvalidRequest("the form ended in the middle")
    if form.filename is None:
        raise InvalidRequest("there is no file in the form", param="file")
    return data


def _content_type(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


def _accepted(http: Request) -> Drawn | Literal["json"] | None:
    """What `Accept` names first of what there is; None where it names nothing of it."""
    for one in http.headers.get("accept", "").lower().split(","):
        kind = one.partition(";")[0].strip()
        if kind == "application/json":
            return "json"
        if kind in ("image/jpeg", "image/png", "image/*"):
            return "png" if kind == "image/png" else "jpeg"
    return None
