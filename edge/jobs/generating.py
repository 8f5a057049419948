"""Kept requests for text: chats, completions and Responses, kept as the JSON of their bodies."""

from __future__ import annotations

import time

import msgspec

from edge.jobs.listeners import Hear
from edge.openai import ask, render
from edge.openai.asked import Asked
from edge.openai.collect import collect
from edge.service import Service
from edge.store.job import Job
from edge.types import Trail


class Generating:
    """Asks the service as for a live request. Their lines are the router's."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, job: Job, heard: Hear | None) -> bytes:
        body = ask.decode(job.kind, job.request)
        request, shape = ask.ask(body, job.id)
        if request.route == "queue":  # it has been there
            request.route = "auto"
        request.deadline = None if job.deadline is None else max(0.0, job.deadline - time.time())
        request.kept = True
        request.caller = job.caller
        trail = Trail()
        source = self._service.generate(request, job.door, trail)
        asked = Asked(request, shape, source, trail, int(job.created))
        return render.encode(await collect(asked, heard=heard))

    def shown(self, request: bytes) -> object:
        return msgspec.json.decode(request)
