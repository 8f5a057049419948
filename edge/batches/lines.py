"""A line of an input file becomes a job, and the outcome of one a line of an output file.

Pure, for threads: asks the service for names only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from edge.access.visitor import Visitor
from edge.errors import EdgeError, InvalidRequest, PayloadTooLarge, from_code
from edge.jobs.intake import new_job
from edge.jobs.permit import permit_text
from edge.openai import ask
from edge.openai.batch import KINDS, Answered, Envelope, OutputLine
from edge.openai.render import encode
from edge.openai.response import kept_response
from edge.service import Service
from edge.store.batch import Batch, Feed, Outcome
from edge.store.contents import Line
from edge.store.job import NewJob

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

    def feed(self, batch: Batch, line: Line, owner: Visitor) -> Feed:
        """The job for a line that has passed the `Scan`; or why there is none."""
        assert line.text is not None
        envelope = msgspec.json.decode(line.text, type=Envelope)
        try:
            job = self._job(batch, bytes(envelope.body), owner)
        except EdgeError as error:
            refusal = (error.code, error.message, error.param)
            return Feed(line.number, line.end, envelope.custom_id, None, refusal)
        return Feed(line.number, line.end, envelope.custom_id, job)

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
        assert line.text is not None
        envelope = msgspec.json.decode(line.text, type=Envelope)
        reason = NOT_CARRIED_OUT.get(batch.ending or "", LOST)
        return _unanswered(f"{batch.id}_{line.number}", envelope.custom_id, *reason)

    def _job(self, batch: Batch, raw: bytes, owner: Visitor) -> NewJob:
        """Everything that can be found wrong with the request is refused before it is kept."""
        config = self._service.config
        body = ask.decode(KINDS[batch.endpoint], raw)
        if body.stream:
            raise InvalidRequest("an answer in a batch cannot be streamed", param="stream")
        if ask.options(body).webhook is not None:
            raise InvalidRequest("a line of a batch has no webhook", param="edge.webhook")
        # Whatever it asks for: nothing in a batch is urgent.
        body.edge = msgspec.structs.replace(ask.options(body), priority="batch")
        permit_text(owner, body, config.models.default)
        # What it owes to the batch keeps the job until its answer is in the output.
        owed = batch.id.encode()
        job = new_job(self._service, body, client=batch.id, door="batch", target=owed)
        if len(job.request) > config.queue.max_mb * 1024 * 1024:
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


def _line(number: str, custom_id: str, status: int, body: bytes) -> bytes:
    answered = Answered(status, number, msgspec.Raw(body))
    return _encoded(OutputLine(f"batch_req_{number}", custom_id, answered, None))


def _unanswered(number: str, custom_id: str, code: str, message: str) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message}
    return _encoded(OutputLine(f"batch_req_{number}", custom_id, None, error))


def _encoded(line: OutputLine) -> bytes:
    return encode(line) + b"\n"
