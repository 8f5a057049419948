"""From a message to a job in the ledger, or to a refusal. Nothing here knows of connections.

The broker has its acknowledgement when `Intake.prompt` or `Intake.cancel` has returned, and not
before: then the job is on disk, or a refusal is on its way.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

import msgspec

from edge.access.visitor import Visitor
from edge.api.mqtt import prompt, reply
from edge.api.mqtt.callers import Callers, Underway
from edge.api.mqtt.inboxes import Asking, Inbox, Inboxes
from edge.api.mqtt.message import Incoming
from edge.api.mqtt.prompt import Envelope
from edge.api.mqtt.reply import Target
from edge.api.mqtt.topics import Topics
from edge.aside import Aside
from edge.errors import (
    EdgeError,
    IdempotencyKeyReused,
    InternalError,
    InvalidKey,
    InvalidRequest,
    JobNotFound,
    NotFound,
)
from edge.jobs.dispatcher import Dispatcher
from edge.metrics import Metrics
from edge.store.job import Idempotency, Job, NewJob, new_id

logger = logging.getLogger(__name__)

QUIET_SECONDS = 30.0

MOST_REFUSALS = 1024
"""On their way to a broker that has not acknowledged them; more are counted, and not sent."""

FindKey = Callable[[str, str], Awaitable[Sequence[tuple[str, str]]]]
"""`Jobs.unfinished_with_key`."""

Send = Callable[[Target, bytes], Awaitable[None]]
"""Publishes a reply and returns when the broker has it."""


class Accepted(msgspec.Struct, frozen=True):
    """A new job, and whether its pieces are wanted as they come."""

    job: Job
    target: Target
    stream: bool


class Intake:
    """Owned by the event loop; every message may be in a task of its own."""

    def __init__(
        self,
        topics: Topics,
        inboxes: Inboxes,
        dispatcher: Dispatcher,
        callers: Callers,
        find_key: FindKey,
        metrics: Metrics,
        limit: int,
    ) -> None:
        self._topics = topics
        self._inboxes = inboxes
        self._callers = callers
        self._underway = Underway(dispatcher)
        self._dispatcher = dispatcher
        self._find_key = find_key
        self._metrics = metrics
        self._refusals = 0
        self._told_at = float("-inf")
        self._untold = 0
        self._limit = limit
        self._aside = Aside()

    async def prompt(self, message: Incoming, send: Send) -> Accepted | None:
        """Keep it, or send what is to be said about it at once. Raises what `send` does."""
        if message.retained:
            self.count("retained")
            return None
        inlet = self._topics.inlet(message.topic)
        if self._callers.ignores(message, inlet.key):
            self.count(InvalidKey.code)
            return None
        try:
            inbox = self._inboxes.of(inlet.kind, inlet.name)
        except NotFound as error:  # a broker that sends what nobody subscribed to
            self.count(error.code)
            return None
        envelope = await self._aside.run(message.size, self._open, message, raw=inbox.raw)
        fresh = new_id()
        address = Target(
            self._topics.default_reply(envelope.id if envelope.id is not None else fresh),
            envelope.id if envelope.id is not None else fresh,
            message.correlation,
        )
        try:
            asked = message.response_topic or envelope.reply_to
            if asked is not None:
                self._topics.check_reply(asked)
                address = msgspec.structs.replace(address, topic=asked)
            visitor = self._callers.recognize(message, inlet.key, envelope.api_key)
            envelope.check()
            lane, owed = asked or self._topics.replies, reply.encode_target(address)
            asking = Asking(message, envelope, visitor, fresh, lane, owed)
            job, stream = await self._take(asking, inbox)
        except EdgeError as error:
            await self.refuse(address, error, send)
            return None
        except Exception:
            logger.exception("a prompt of %d bytes failed", message.size)
            bug = InternalError("the appliance failed; its log says how")
            await self.refuse(address, bug, send)
            return None
        if job is None:
            return None
        if job.id != fresh:
            await self._again(job, message, address, send)
            return None
        return Accepted(job, address, stream)

    async def cancel(self, message: Incoming, send: Send) -> None:
        """`{"id": "…"}`: the caller's, or the one that was made; with a reply topic, only there.
        Only of prompts that came with the same key, or like this one with none.

        The answer is the prompt's own final reply. An id that is not there, or that several
        callers use at the moment, is an error.
        """
        if message.retained:
            self.count("retained")
            return
        inlet = self._topics.inlet(message.topic)
        if self._callers.ignores(message, inlet.key):
            self.count(InvalidKey.code)
            return
        envelope = self._open(message)
        found = envelope.id
        asked = message.response_topic or envelope.reply_to
        target = Target(
            self._topics.default_reply(found if found is not None else new_id()),
            found if found is not None else "",
            message.correlation,
        )
        try:
            if asked is not None:
                self._topics.check_reply(asked)
                target = msgspec.structs.replace(target, topic=asked)
            visitor = self._callers.recognize(message, inlet.key, envelope.api_key)
            envelope.check()
            if found is None or envelope.fields:
                raise InvalidRequest('a payload here is `{"id": "…"}`', param="id")
            await self._dispatcher.cancel(await self._find(visitor, str(found), asked))
        except EdgeError as error:
            await self.refuse(target, error, send)

    async def refuse(self, target: Target, error: EdgeError, send: Send) -> None:
        self.count(error.code)
        self._callers.tell(target.topic, error)
        self._log(target, error)
        if isinstance(error, InvalidKey) and not self._callers.refuses():
            return
        if self._refusals >= MOST_REFUSALS:
            return
        self._refusals += 1
        try:
            await send(target, reply.refusal(target.id, error))
        finally:
            self._refusals -= 1

    def count(self, reason: str) -> None:
        self._metrics.mqtt_refused.labels(reason).inc()

    def _log(self, target: Target, error: EdgeError) -> None:
        """The first of a storm, and then one every 30 s."""
        now = time.monotonic()
        if now - self._told_at < QUIET_SECONDS:
            self._untold += 1
            return
        more = f" ({self._untold} more before)" if self._untold else ""
        logger.info("refused a message for %s: %s%s", target.topic, error.message, more)
        self._told_at, self._untold = now, 0

    def _open(self, message: Incoming, *, raw: bool = False) -> Envelope:
        if not message.readable:
            return Envelope(problem=InvalidRequest("a property of the message is no text"))
        if message.too_large:
            return prompt.too_large(message.size, self._limit)
        return prompt.open_envelope(message.payload, message.user.get("x-request-id"), raw=raw)

    async def _take(self, asking: Asking, inbox: Inbox) -> tuple[Job | None, bool]:
        """What `_add` returns, within the limits of the key; whether pieces are wanted."""
        with ExitStack() as running:
            running.enter_context(asking.visitor.admitted())
            new, stream = await inbox.job(asking)
            job = await self._add(asking, new)
            if job is not None and job.id == asking.job_id:
                self._underway.hold(asking.visitor, job.id, running.pop_all())
        return job, stream

    async def _add(self, asking: Asking, new: NewJob) -> Job | None:
        """The job, new or known; None where the broker sent again what is known already."""
        message, envelope = asking.message, asking.envelope
        deadline = new.deadline
        if message.expiry is not None:
            deadline = min(time.time() + message.expiry, deadline or math.inf)
        same = _identity(asking, new)
        whose = asking.visitor.caller
        new = msgspec.structs.replace(new, caller=whose, deadline=deadline, idempotency=same)
        try:
            return await self._dispatcher.add(new)
        except IdempotencyKeyReused:
            if envelope.id is not None or message.correlation is not None:
                raise
            if message.again:
                self.count("duplicate")
                return None
            return await self._dispatcher.add(msgspec.structs.replace(new, idempotency=None))

    async def _again(self, job: Job, message: Incoming, target: Target, send: Send) -> None:
        """A prompt that is known. Its reply is sent once more if the caller sent it, and not the
        broker, and if there is one; else it will come by itself."""
        self.count("duplicate")
        if message.again or job.finished is None:
            return
        known = reply.decode_target(job.target) if job.target else target
        target = msgspec.structs.replace(target, id=known.id, topic=known.topic)
        ended = (job.state, job.result, job.error_code, job.error_message)
        await send(target, reply.outcome(target, *ended))

    async def _find(self, visitor: Visitor, key: str, asked: str | None) -> str:
        """The job that a caller means. Raises `JobNotFound` and `InvalidRequest`."""
        scope = _scope("mqtt", visitor, asked or "")
        found = await self._find_key(scope, key)
        if asked is not None:
            found = [pair for pair in found if pair[0] == scope]
        if len(found) > 1:
            raise InvalidRequest(
                f"several callers have a prompt `{key}`", param="reply_to", hint="give `reply_to`"
            )
        if found:
            return found[0][1]
        try:
            job = await self._dispatcher.get(key)
        except JobNotFound:
            job = None
        if job is None or job.door != "mqtt" or job.caller != visitor.caller:
            raise JobNotFound(f"there is no prompt `{key}` that has not ended", param="id")
        if asked is not None and job.target and reply.decode_target(job.target).topic != asked:
            raise JobNotFound(f"there is no prompt `{key}` that has not ended", param="id")
        return job.id


def _identity(asking: Asking, new: NewJob) -> Idempotency | None:
    """What makes another message the same prompt.

    By the caller's id within the reply topic; else by Correlation Data, payload and reply topic;
    else only the broker can send it again, and does so under the same packet identifier.
    """
    message, envelope, visitor, lane = asking.message, asking.envelope, asking.visitor, asking.lane
    # A chat names its model in the payload; of the others it stands in the topic, as the line does.
    where = b"" if new.kind == "chat" else f"{new.kind} {new.line}\n".encode()
    if envelope.id is not None:
        return Idempotency(
            scope=_scope("mqtt", visitor, lane),
            key=str(envelope.id),
            digest=hashlib.sha256(where + new.request).digest(),
            reuse_when_finished=True,
        )
    content = hashlib.sha256(where + message.payload)
    if message.correlation is not None:
        content.update(b"\n" + message.correlation)
        return Idempotency(
            scope=_scope("mqtt-correlation", visitor, lane),
            key=content.hexdigest(),
            digest=content.digest(),
        )
    if message.qos == 0:
        return None
    # The digest is never the same, so what came before is found only as a conflict: a fact where
    # the broker says that it sends again, and else a number that was in use long ago.
    return Idempotency(
        scope=_scope("mqtt-packet", visitor, lane),
        key=f"{message.number} {content.hexdigest()}",
        digest=new_id().encode(),
        reuse_when_finished=not message.again,
    )


def _scope(word: str, visitor: Visitor, lane: str) -> str:
    """Within which an id means one prompt. No name has a blank, so that no reply topic which a
    caller thinks up gets into the scope of a key."""
    return f"{word}:{visitor.owner} {lane}" if visitor.owner else f"{word} {lane}"
