"""Kept requests to chains, with their pictures, and whom they wait for: both of their models."""

from __future__ import annotations

import msgspec

from edge.chains import body as shape
from edge.chains.chains import Chains, Whose
from edge.jobs.inferring import monotonic
from edge.jobs.listeners import Hear
from edge.jobs.places import Place
from edge.openai.render import encode
from edge.service import Service
from edge.store.job import Job
from edge.types import Priority

WORD = "chain"
"""Of the lines: `chain NAME`."""


class Chaining:
    """A kind and its lines. A job takes a place where the text is written, which takes longer; it
    waits while there is nobody to look at its picture."""

    def __init__(self, service: Service, chains: Chains) -> None:
        self._service = service
        self._chains = chains

    async def answer(self, job: Job, heard: Hear | None) -> bytes:
        body = shape.decode(job.request)
        whose = Whose(
            job.id,
            job.door,
            job.caller,
            deadline=monotonic(job.deadline),
            kept=True,
            created=int(job.created),
        )
        return encode(await self._chains.run(_name(job.line), body, whose))

    def shown(self, request: bytes) -> object:
        body = shape.decode(request)
        return {
            "image": f"{len(body.picture)} bytes",
            **body.fields,
            "edge": msgspec.to_builtins(body.options),
        }

    def place(self, line: str, priority: Priority) -> Place | None:
        seeing = self._service.onnx.place(self._chains[_name(line)].see)
        if seeing.unavailable() is not None:
            return None
        return self._service.router.place(self._text_line(line), priority)

    def obstacle(self, line: str) -> str | None:
        seeing = self._service.onnx.place(self._chains[_name(line)].see)
        if refusal := seeing.unavailable():
            return refusal.message
        return self._service.router.obstacle(self._text_line(line))

    def loading(self, line: str) -> str | None:
        seeing = self._service.onnx.place(self._chains[_name(line)].see)
        if not seeing.at_hand:
            return seeing.model
        return self._service.router.loading(self._text_line(line))

    def reachable(self, line: str) -> bool:
        return self._service.router.reachable(self._text_line(line))

    def _text_line(self, line: str) -> str:
        return f"auto {self._chains.writer(_name(line))}"


def line_of(name: str) -> str:
    return f"{WORD} {name}"


def _name(line: str) -> str:
    return line.partition(" ")[2]
