"""Kept requests to models that are no language models: pictures to look at, and tensors.

They wait in a line for each model, `infer MODEL`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from edge.jobs.listeners import Hear
from edge.jobs.places import Place
from edge.kserve.parse import Asked, parse
from edge.kserve.render import render
from edge.openai.pictures import picture_answer
from edge.openai.render import encode, origin_of
from edge.service import Service
from edge.store.job import Job
from edge.tensors import Inference, Inferred, PictureWork, Work
from edge.types import Priority

WORD = "infer"
"""Of the lines."""


class InferBody(msgspec.Struct, omit_defaults=True):
    """What is kept, as MessagePack: a picture takes the bytes it has. One of the two is there.

    tensors: a body of the Open Inference Protocol, JSON.
    """

    picture: PictureWork | None = None
    tensors: bytes = b""


class Inferring:
    """A kind and its lines."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, job: Job, heard: Hear | None) -> bytes:
        body = decode(job.request)
        asked = None if body.picture else await asyncio.to_thread(parse, body.tensors)
        work: Work | None = asked.work if asked else body.picture
        assert work is not None
        inferred = await self._service.infer(inference(job, model_of(job.line), work), job.door)
        # Large arrays become JSON beside the event loop.
        return await asyncio.to_thread(_answer, job, inferred, asked)

    def shown(self, request: bytes) -> object:
        body = decode(request)
        if body.picture is None:
            return {"tensors": f"{len(body.tensors)} bytes"}
        shown: dict[str, Any] = msgspec.to_builtins(body.picture)
        return {**shown, "data": f"{len(body.picture.data)} bytes"}

    def place(self, line: str, priority: Priority) -> Place | None:
        place = self._service.onnx.place(model_of(line))
        return place if place.unavailable() is None else None

    def obstacle(self, line: str) -> str | None:
        refusal = self._service.onnx.place(model_of(line)).unavailable()
        return None if refusal is None else refusal.message

    def loading(self, line: str) -> str | None:
        place = self._service.onnx.place(model_of(line))
        return None if place.at_hand else place.model

    def reachable(self, line: str) -> bool:
        return True


def encode_body(body: InferBody) -> bytes:
    return msgspec.msgpack.encode(body)


def decode(raw: bytes) -> InferBody:
    return msgspec.msgpack.decode(raw, type=InferBody)


def line_of(model: str) -> str:
    return f"{WORD} {model}"


def model_of(line: str) -> str:
    return line.partition(" ")[2]


def inference(job: Job, model: str, work: Work) -> Inference:
    """What to ask of the service for a kept request."""
    return Inference(
        id=job.id,
        model=model,
        work=work,
        priority=job.priority,
        deadline=monotonic(job.deadline),
        caller=job.caller,
        kept=True,
    )


def monotonic(deadline: float | None) -> float | None:
    """Epoch seconds as time.monotonic() will have them."""
    return None if deadline is None else time.monotonic() + deadline - time.time()


def _answer(job: Job, inferred: Inferred, asked: Asked | None) -> bytes:
    if asked is None:
        return encode(picture_answer(inferred, job.id, int(job.created)))
    answer = msgspec.json.decode(render(inferred, asked).header, type=dict[str, msgspec.Raw])
    return encode({**answer, "model": inferred.model, "edge": origin_of(inferred)})
