"""A line of an input file becomes a job, and the outcome of one a line of an output file.

Asks the service for names only. What takes long with a large line is done in a thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from edge.access.visitor import Visitor
from edge.errors import EdgeError, InvalidRequest, PayloadTooLarge, from_code
from edge.jobs.intake import embed_job, new_job
from edge.jobs.permit import permit, permit_text
from edge.openai import ask
from edge.openai.batch import EMBEDDINGS, KINDS, Answered, Envelope, OutputLine
from edge.openai.embeddings import EmbeddingBody
from edge.openai.parse import decode
from edge.openai.render import encode
from edge.openai.response import kept_response
from edge.openai.schema import EdgeOptions
from edge.service import Service
from edge.store.batch import Batch, Feed, Outcome
from edge.store.contents import Line
from edge.store.job import NewJob, new_id

Refusal = Callable[[EdgeError], tuple[int, bytes]]
"""How the door would have answered: status and body."""

NOT_CARRIED_OUT = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was answered"),
    "expired": ("batch_expired", "the batch expired before this request was answered"),
    "failed": ("batch_failed", "the batch failed before this request was answered"),
}
"""Code and message of a line without an answer, by what its batch ends as."""

LOST = ("internal_error", "the appliance has lost this request")


class Lines:
    """Between the two formats and the ledger."""

    def __init__(self, service: Service, refusal: Refusal) -> None:
        self._service = service
        self._refusal = refusal

    async def feeds(self, batch: Batch, lines: Sequence[Line], owner: Visitor) -> list[Feed]:
        """The jobs for lines that have passed the `Scan`; or why there is none."""
        there = [line for line in lines if line.text]
        if batch.endpoint == EMBEDDINGS:
            return [await self._embedding_feed(batch, line, owner) for line in there]
        return await asyncio.to_thread(
            lambda: [self._text_feed(batch, line, owner) for line in there]
        )

    def answered(self, batch: Batch, outcome: Outcome) -> tuple[bool, bytes]:
        """Whether a line that was fed has an answer, and its line of the output."""
        number = outcome.job or f"{batch.id}_{outcome.line}"
        if outcome.state == "done" and outcome.result is not None:
            return True, _line(number, outcome.custom_id, 200, self._body(outcome))
        reason = NOT_CARRIED_OUT.get(batch.ending or "")
        stopped = outcome.state == "cancelled" or outcome.state == batch.ending == "expired"
        if stopped and reason:
            return False, _unanswered(number, outcome.custom_id, *reason)
        if outcome.error_code is None:
            cancelled = ("cancelled", "this request was cancelled")
            why = cancelled if outcome.state == "cancelled" else LOST
            return False, _unanswered(number, outcome.custom_id, *why)
        error = from_code(outcome.error_code, outcome.error_message or "", outcome.error_param)
        return False, _line(number, outcome.custom_id, *self._refusal(error))

    def never_fed(self, batch: Batch, line: Line) -> bytes:
        """The output for a line that did not get to the queue."""
        envelope = _envelope(line)
        reason = NOT_CARRIED_OUT.get(batch.ending or "", LOST)
        return _unanswered(f"{batch.id}_{line.number}", envelope.custom_id, *reason)

    def _text_feed(self, batch: Batch, line: Line, owner: Visitor) -> Feed:
        envelope = _envelope(line)
        try:
            body = ask.decode(KINDS[batch.endpoint], bytes(envelope.body))
            if body.stream:
                raise InvalidRequest("an answer in a batch cannot be streamed", param="stream")
            body.edge = _unhurried(ask.options(body))
            permit_text(owner, body, self._service.config.models.default)
            job = new_job(self._service, body, job_id=new_id(), **_origin(batch))
            return _feed(line, envelope, self._kept(batch, job, owner))
        except EdgeError as error:
            return _refused(line, envelope, error)

    async def _embedding_feed(self, batch: Batch, line: Line, owner: Visitor) -> Feed:
        """Which model is meant is known in the event loop alone."""
        envelope, texts = await asyncio.to_thread(_envelope, line), self._service.texts
        try:
            body = await asyncio.to_thread(decode, bytes(envelope.body), EmbeddingBody)
            options = _unhurried(body.edge or EdgeOptions())
            if body.model not in (None, "default"):  # before it is said whether it is there
                permit(owner, options, body.model)
            model = await texts.choose("embed", body.model)
            body.edge = permit(owner, options, model)
            make = partial(embed_job, self._service, model, body, job_id=new_id())
            job = await asyncio.to_thread(make, **_origin(batch))
            return _feed(line, envelope, self._kept(batch, job, owner))
        except EdgeError as error:
            return _refused(line, envelope, error)

    def _kept(self, batch: Batch, job: NewJob, owner: Visitor) -> NewJob:
        """Everything that can be found wrong with a request is refused before it is kept."""
        if len(job.request) > self._service.config.queue.max_mb * 1024 * 1024:
            raise PayloadTooLarge("the request is larger than the queue (queue.max_mb)")
        deadline = min(batch.expires, job.deadline or math.inf)
        return msgspec.structs.replace(job, caller=owner.caller, deadline=deadline)

    def _body(self, outcome: Outcome) -> bytes:
        assert outcome.result is not None
        if outcome.kind != "response":
            return outcome.result
        assert outcome.request is not None
        return encode(
            kept_response(
                outcome.job or "",
                outcome.created or 0.0,
                outcome.kind,
                outcome.request,
                self._service.config.models.default,
                outcome.result,
            )
        )


def _envelope(line: Line) -> Envelope:
    assert line.text is not None
    return msgspec.json.decode(line.text, type=Envelope)


def _unhurried(options: EdgeOptions) -> EdgeOptions:
    """Whatever a line asks for: nothing in a batch is urgent."""
    if options.webhook is not None:
        raise InvalidRequest("a line of a batch has no webhook", param="edge.webhook")
    return msgspec.structs.replace(options, priority="batch")


def _origin(batch: Batch) -> dict[str, Any]:
    """What it owes to the batch keeps a job until its answer is in the output."""
    return {"client": batch.id, "door": "batch", "target": batch.id.encode()}


def _feed(line: Line, envelope: Envelope, job: NewJob) -> Feed:
    return Feed(line.number, line.end, envelope.custom_id, job)


def _refused(line: Line, envelope: Envelope, error: EdgeError) -> Feed:
    refusal = (error.code, error.message, error.param)
    return Feed(line.number, line.end, envelope.custom_id, None, refusal)


def _line(number: str, custom_id: str, status: int, body: bytes) -> bytes:
    answered = Answered(status, number, msgspec.Raw(body))
    return _encoded(OutputLine(f"batch_req_{number}", custom_id, answered, None))


def _unanswered(number: str, custom_id: str, code: str, message: str) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message}
    return _encoded(OutputLine(f"batch_req_{number}", custom_id, None, error))


def _encoded(line: OutputLine) -> bytes:
    return encode(line) + b"\n"
