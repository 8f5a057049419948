"""Outcomes sent to the address that their request named: `edge.webhook`.

The body is the Response object, as `GET /v1/responses/{id}` gives it. What is owed stands in the
ledger until the receiver has said 2xx, so a restart or an outage of a day loses nothing.
Owned by the event loop; one task for each request that is under way.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from pathlib import Path

import httpx
import msgspec

from edge.api.http.durable import DurableDoor
from edge.config.doors import Webhooks as Settings
from edge.errors import ConfigError, JobNotFound
from edge.loops import Loop, delay_after
from edge.store.deliveries import Deliveries, Delivery

logger = logging.getLogger(__name__)

TICK = 1.0
SECONDS = 10.0
"""Time for a receiver to answer."""

MOST_AT_ONCE = 32

FIRST_RETRY = 5.0
LONGEST_RETRY = 3600.0
MOST_ATTEMPTS = 33
"""Attempts that, with these delays, fill a day."""


def read_secret(settings: Settings) -> bytes | None:
    """The key that signs, without the line's end. Raises `ConfigError` if it cannot be read."""
    if settings.secret_file is None:
        return None
    try:
        secret = Path(settings.secret_file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{settings.secret_file} cannot be read: {error.strerror}",
            param="webhooks.secret_file",
            hint="name a file that holds the secret and that this user may read",
        ) from None
    if not secret:
        raise ConfigError(f"{settings.secret_file} is empty", param="webhooks.secret_file")
    return secret


def signature(secret: bytes, body: bytes) -> str:
    """The value of `X-Edge-Signature`: `sha256=` and the hex HMAC of the body."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


class Webhooks:
    """`run` it in a task."""

    def __init__(self, deliveries: Deliveries, durable: DurableDoor, secret: bytes | None) -> None:
        self._deliveries = deliveries
        self._durable = durable
        self._secret = secret
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._made: httpx.AsyncClient | None = None
        self._loop = Loop("webhooks", self._turn, tick=TICK)

    def wake(self, _job_id: str) -> None:
        """A job has ended."""
        self._loop.wake()

    async def run(self) -> None:
        try:
            await self._loop.run()
        finally:
            if self._made is not None:
                await self._made.aclose()

    async def stop(self) -> None:
        """What is under way is sent again after the next start."""
        self._loop.stop()
        sending = list(self._sending.values())
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    @property
    def _client(self) -> httpx.AsyncClient:
        """Made for the first delivery: reading the certificates takes a tenth of a second, and most
        appliances never send one."""
        if self._made is None:
            self._made = httpx.AsyncClient(timeout=SECONDS)
        return self._made

    async def _turn(self) -> None:
        # Those under way are due as well, so look past them.
        due = await self._deliveries.due("http", time.time(), limit=2 * MOST_AT_ONCE)
        for delivery in due:
            if len(self._sending) >= MOST_AT_ONCE:
                break
            if delivery.id not in self._sending:
                task = asyncio.create_task(self._deliver(delivery), name=f"webhook {delivery.id}")
                self._sending[delivery.id] = task

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            problem = await self._post(delivery)
            if problem is None:
                await self._deliveries.delivered(delivery.id)
                return
            last = delivery.attempts + 1 >= MOST_ATTEMPTS
            logger.warning(
                "webhook of job %s: %s%s", delivery.id, problem, "; given up" if last else ""
            )
            delay = delay_after(delivery.attempts, FIRST_RETRY, LONGEST_RETRY)
            await self._deliveries.failed(delivery.id, None if last else time.time() + delay)
        except JobNotFound:
            pass
        except Exception:
            logger.exception("the webhook of job %s", delivery.id)
            await asyncio.sleep(TICK)
        finally:
            del self._sending[delivery.id]
            self._loop.wake()

    async def _post(self, delivery: Delivery) -> str | None:
        """None when the receiver has taken it, else what was wrong."""
        body = msgspec.json.encode(await self._durable.find(delivery.id))
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers["X-Edge-Signature"] = signature(self._secret, body)
        try:
            status = await asyncio.wait_for(
                self._status(delivery.target.decode(), body, headers), SECONDS
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        except asyncio.TimeoutError:
            return f"no answer within {SECONDS:.0f} s"
        return None if 200 <= status < 300 else f"status {status}"

    async def _status(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        # The answer's body is of no interest, and could be endless.
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            return answer.status_code
