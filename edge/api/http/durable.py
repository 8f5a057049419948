"""Requests that are kept on disk before they are acknowledged: `Prefer: respond-async`,
`background: true`, and whatever has an `Idempotency-Key`.

The ledger's id of a job is the id of its Response, behind `resp_`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from edge.access.meter import key_of
from edge.access.visitor import ANYBODYS
from edge.api.http.caller import caller_of
from edge.api.http.coming import Coming, answer_of
from edge.api.http.doorman import visitor_of
from edge.api.http.stream import while_connected
from edge.errors import EdgeError, IdempotencyKeyInUse, InvalidRequest
from edge.jobs.dispatcher import Dispatcher
from edge.jobs.intake import new_job
from edge.jobs.permit import permit_text
from edge.openai import ask
from edge.openai.ask import Body
from edge.openai.asked import Asked
from edge.openai.replay import decode_answer, parts_of, trail_of
from edge.openai.response import PREFIX, Response, Status, kept_response, other_response
from edge.openai.schema import EdgeOptions, ResponseBody
from edge.service import Service
from edge.store.job import Idempotency, Job, NewJob, State, new_id
from edge.store.jobs import job_not_found
from edge.types import Part, Trail

LONGEST_KEY = 255

STATUS: dict[State, Status] = {
    "queued": "queued",
    "running": "in_progress",
    "failed": "failed",
    "expired": "failed",
    "cancelled": "cancelled",
}


@dataclass
class Keeping:
    """A request that may be kept, or has to be. job: makes the job for it, given `job_id`,
    `client`, `door` and `target`."""

    options: EdgeOptions
    job: Callable[..., NewJob]


def _wants_queue(headers: Mapping[str, str], options: EdgeOptions) -> bool:
    """Whether `Prefer` names `respond-async` (RFC 7240, section 4.1), the route is the queue,
    or the answer is to be sent to a webhook."""
    preferences = headers.get("prefer", "").lower().split(",")
    preferred = any(one.split(";")[0].strip() == "respond-async" for one in preferences)
    return preferred or options.route == "queue" or options.webhook is not None


class DurableDoor:
    """The part of the HTTP door that puts requests into the ledger and reads them back."""

    def __init__(self, service: Service, dispatcher: Dispatcher) -> None:
        self._service = service
        self._dispatcher = dispatcher

    async def respond(
        self, http: HttpRequest, body: Body, live: Callable[[Asked], Awaitable[HttpResponse]]
    ) -> HttpResponse:
        """What `live` makes of the answer, except for what is to be kept, or may be when it cannot
        be answered now. Raises `Forbidden` for what the caller's key is not for."""
        permit_text(visitor_of(http), body, self._service.config.models.default)
        keeping = Keeping(ask.options(body), partial(new_job, self._service, body))
        background = isinstance(body, ResponseBody) and body.background
        if background or _wants_queue(http.headers, keeping.options):
            if body.stream:
                raise InvalidRequest(
                    "nobody can listen to an answer that is computed later",
                    param="stream",
                    hint="leave out `stream`, or `background`, `webhook` and `Prefer`",
                )
            return await self._accept(http, keeping, 200 if background else 202)
        if idempotency_key(http) is not None:
            if body.stream:
                return await self._stream_once(http, body, live)
            return await self._answer_once(http, keeping)
        request, shape = ask.ask(body, http.state.request_id)
        request.caller = caller_of(http)
        trail = Trail()
        source = self._service.generate(request, "http", trail)
        try:
            return await live(Asked(request, shape, source, trail))
        except EdgeError as error:
            if error.retryable and keeping.options.allow_queue and not body.stream:
                return await self._accept(http, keeping)
            raise

    async def respond_whole(
        self, http: HttpRequest, keeping: Keeping, live: Callable[[], Awaitable[HttpResponse]]
    ) -> HttpResponse:
        """The same for requests whose answers are no texts, and come whole."""
        if _wants_queue(http.headers, keeping.options):
            return await self._accept(http, keeping)
        if idempotency_key(http) is not None:
            return await self._answer_once(http, keeping)
        try:
            return await live()
        except EdgeError as error:
            if error.retryable and keeping.options.allow_queue:
                return await self._accept(http, keeping)
            raise

    async def _accept(
        self, http: HttpRequest, keeping: Keeping, status_code: int = 202
    ) -> HttpResponse:
        """Keep the request and answer with its Response, which is queued."""
        response = self._response(await self._add(http, keeping, new_id()))
        return HttpResponse(
            msgspec.json.encode(response),
            status_code=status_code,
            headers={
                "Location": f"/v1/responses/{response.id}",
                "Preference-Applied": "respond-async",
                "X-Edge-Route": "queue",
            },
            media_type="application/json",
        )

    async def _answer_once(self, http: HttpRequest, keeping: Keeping) -> HttpResponse:
        """The answer to a request with an `Idempotency-Key`, computed once however often it comes.

        A client that leaves does not stop it: it is to come back with the same key.
        Raises `IdempotencyKeyInUse` while another request with that key waits for the same answer.
        """
        fresh = new_id()
        job = await self._add(http, keeping, fresh)
        _check_free(job, fresh)
        job = await while_connected(http, self._dispatcher.finished(job.id))
        result = answer_of(job)
        headers = {"Idempotent-Replayed": "true"} if job.id != fresh else {}
        is_response = job.kind == "response"
        return HttpResponse(
            msgspec.json.encode(self._response(job)) if is_response else result,
            headers={"X-Edge-Route": "queue", **headers},
            media_type="application/json",
        )

    async def _stream_once(
        self, http: HttpRequest, body: Body, live: Callable[[Asked], Awaitable[HttpResponse]]
    ) -> HttpResponse:
        """The same as a stream: as it comes for the first request, from the ledger for others."""
        fresh = new_id()
        keeping = Keeping(ask.options(body), partial(new_job, self._service, body))
        job = await self._add(http, keeping, fresh)
        _check_free(job, fresh)
        request, shape = ask.ask(body, job.id)
        if job.id == fresh:
            trail = Trail("queue", self._service.router.model(request))
            source = Coming(self._dispatcher, fresh).parts(request.answers)
        else:
            answer = decode_answer(answer_of(job))
            trail, source = trail_of(answer), _at_once(parts_of(answer))
        return await live(Asked(request, shape, source, trail, int(job.created)))

    async def find(self, response_id: str, http: HttpRequest | None = None) -> Response:
        """http: who asks; what is another's is as if it were not there. Raises `JobNotFound`."""
        job_id = response_id.removeprefix(PREFIX)
        job = await self._dispatcher.get(job_id)
        if http is not None and not visitor_of(http).finds(key_of(job.caller) or ANYBODYS):
            raise job_not_found(job_id)
        return self._response(job)

    async def cancel(self, response_id: str, http: HttpRequest) -> Response:
        """The Response after it was cancelled, or as it had ended before. Raises `JobNotFound`."""
        await self.find(response_id, http)
        await self._dispatcher.cancel(response_id.removeprefix(PREFIX))
        return await self.find(response_id)

    def _response(self, job: Job) -> Response:
        default = self._service.config.models.default
        if job.kind in ask.BODIES:
            given = (job.kind, job.request, default, job.result)
            response = kept_response(job.id, job.created, *given)
        else:
            response = other_response(job.id, job.created, job.line.partition(" ")[2], job.result)
        if job.state != "done":
            response.status = STATUS[job.state]
        if job.error_code is not None:
            response.error = {"code": job.error_code, "message": job.error_message or ""}
        return response

    async def _add(self, http: HttpRequest, keeping: Keeping, job_id: str) -> Job:
        """Everything that can be found wrong with it is refused before it is kept."""
        client = http.client.host if http.client else ""
        webhook = keeping.options.webhook
        job = keeping.job(
            job_id=job_id,
            client=client,
            door="http",
            target=webhook.encode() if webhook else None,
        )
        job = msgspec.structs.replace(job, caller=caller_of(http))
        if (key := idempotency_key(http)) is not None:
            digest = hashlib.sha256(http.url.path.encode() + b"\n" + job.request).digest()
            scope = f"http {client} {job.caller}".rstrip()
            same = Idempotency(scope=scope, key=key, digest=digest)
            job = msgspec.structs.replace(job, idempotency=same)
        return await self._dispatcher.add(job)


def _check_free(job: Job, fresh: str) -> None:
    """Raises `IdempotencyKeyInUse` where the job is an earlier one's that has not ended."""
    if job.id != fresh and job.finished is None:
        raise IdempotencyKeyInUse(
            "a request with this idempotency key is still being answered", retry_after=1.0
        )


async def _at_once(parts: list[Part]) -> AsyncGenerator[list[Part], None]:
    yield parts


def idempotency_key(http: HttpRequest) -> str | None:
    """The request's `Idempotency-Key`, if it has one. Raises `InvalidRequest`."""
    key = http.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= LONGEST_KEY:
        raise InvalidRequest(f"Idempotency-Key has 1 to {LONGEST_KEY} characters")
    return key
