"""Kept requests for vectors of texts: OpenAI's body in, its answer out.

They wait in the line of their model, that of an ONNX folder or of a GGUF file that embeds.
"""

from __future__ import annotations

import asyncio

import msgspec

from edge.jobs.inferring import inference, model_of
from edge.jobs.listeners import Hear
from edge.openai.embeddings import EmbeddingBody, embedding_answer, embedding_work
from edge.openai.parse import decode
from edge.service import Service
from edge.store.job import Job
from edge.tensors import Inferred


class Embedding:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, job: Job, heard: Hear | None) -> bytes:
        body = decode(job.request, EmbeddingBody)
        asked = inference(job, model_of(job.line), embedding_work(body))
        inferred = await self._service.infer(asked, job.door)
        # Thousands of vectors become JSON beside the event loop.
        return await asyncio.to_thread(_answer, body, inferred)

    def shown(self, request: bytes) -> object:
        return msgspec.json.decode(request)


def _answer(body: EmbeddingBody, inferred: Inferred) -> bytes:
    return b"".join(embedding_answer(body, inferred))
