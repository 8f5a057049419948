"""Who asks over MQTT: which key a message shows, in one of three ways, and how bad ones are met.

    {root}/{device}/as/NAME/…     the broker vouches for it: its access list lets only the user NAME
                                  publish there
    User Property `api-key`       the key itself, with MQTT 5
    `api_key` in the JSON         the same for everybody else

The first goes before the second, and that before the third. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, suppress

from edge.access.gate import Gate, Presented
from edge.access.visitor import Visitor
from edge.api.mqtt.message import Incoming
from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.errors import EdgeError, InvalidKey
from edge.jobs.dispatcher import Dispatcher

REFUSALS_A_SECOND = 10.0
MOST_REFUSALS = 50.0
"""Replies about bad keys at once. There is no address that could be made to wait, and a wait would
hold up the acknowledgements of everybody: so what comes beyond them is dropped without a word."""


class Callers:
    """has_password: whether the appliance has to show the broker one. Else the broker lets in
    anybody, and its word is worth nothing. audit: is told of refusals, None for no such log."""

    def __init__(self, gate: Gate, *, has_password: bool, audit: Audit | None = None) -> None:
        self._gate = gate
        self._audit = audit
        self._has_password = has_password
        self._refusals = MOST_REFUSALS
        self._filled_at = time.monotonic()

    def recognize(self, message: Incoming, name: str | None, token: str | None) -> Visitor:
        """name: in the topic. token: in the body. Raises `InvalidKey` and `Forbidden`."""
        if name is not None and not self._has_password and "mqtt" in self._gate.required:
            raise InvalidKey(
                "the broker asks for no password, so that it cannot vouch for anybody",
                hint="show the key itself, or see docs/mqtt.md",
            )
        token = message.user.get("api-key") or token or ""
        return self._gate.recognize(Presented("mqtt", token=token, name=name))

    def ignores(self, message: Incoming, name: str | None) -> bool:
        """Whether nothing is said about its bad key, and so its body need not be looked at."""
        self._refill()
        if self._refusals >= 1.0 or (name is None and "api-key" not in message.user):
            return False
        try:
            self.recognize(message, name, None)
        except InvalidKey as error:
            self.tell(message.topic, error)
            return True
        except EdgeError:
            pass
        return False

    def tell(self, origin: str, error: EdgeError) -> None:
        """Have the audit log know of a refusal. origin: the topic where its answer goes, or where
        the message came."""
        if self._audit is not None:
            self._audit.note(Event(what="refused", origin=origin, door="mqtt", status=error.code))

    def refuses(self) -> bool:
        """Whether a bad key is answered; that counts it as answered."""
        self._refill()
        if self._refusals < 1.0:
            return False
        self._refusals -= 1.0
        return True

    def _refill(self) -> None:
        now = time.monotonic()
        more = (now - self._filled_at) * REFUSALS_A_SECOND
        self._refusals, self._filled_at = min(MOST_REFUSALS, self._refusals + more), now


class Underway:
    """The prompts that have not ended of keys which may have so many at once. A restart forgets
    them: those that it finds in the ledger count no more."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._tasks: set[asyncio.Task[None]] = set()

    def hold(self, visitor: Visitor, job_id: str, running: ExitStack) -> None:
        """Close `running` when the job has ended; at once where nobody counts them."""
        if visitor.key is None or visitor.key.quota.concurrent is None:
            running.close()
            return
        task = asyncio.create_task(self._until_ended(job_id, running), name=f"mqtt {job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_ended(self, job_id: str, running: ExitStack) -> None:
        # An error: it is gone, the disk is, or the appliance stops.
        with running, suppress(EdgeError):
            await self._dispatcher.finished(job_id)
