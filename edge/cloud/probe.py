"""Whether an upstream's server can be reached: asked for its models while nobody else asks.

Any HTTP answer will do: what it says of requests is for the breaker to judge. While the link is
down it is asked so often that a queue starts to drain within seconds of its return.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from typing import Any, Literal

import httpx

from edge.cloud.connections import Connections, Lent
from edge.cloud.key import read_key
from edge.config import answering
from edge.errors import EdgeError

logger = logging.getLogger(__name__)

Link = Literal["up", "down", "unknown"]

IDLE = 30.0
"""Seconds between two probes while all is well; an answer to a request counts as one."""

DOWN = (0.5, 1.0)
"""The pause between two probes while the link is down, at random so that not all ask at once."""

SHORT = 1.5
"""How long a probe may take while the link is down: it has to be there soon after the link is."""

LONG_EVERY = 4
"""Every so many probes take the time that a slow link needs."""

LARGEST = 64 * 1024

EXPECTED = (httpx.HTTPError, httpx.InvalidURL, OSError, EOFError, EdgeError)


class Probe:
    """`ask` when it is `due` (monotonic seconds); requests tell it what they found by the way."""

    def __init__(self, name: str, settings: answering.Upstream, connections: Connections) -> None:
        self.name = name
        self.settings = settings
        self.connections = connections
        self.link: Link = "unknown"
        self.due = time.monotonic()
        self._asked_in_vain = 0
        self._asking: asyncio.Task[int] | None = None
        self._lookup: asyncio.Future[Any] | None = None
        self._key_refused = False
        self._stopped = False

    def answered(self) -> None:
        """It answered, to whatever."""
        if self.link == "down":
            logger.info("upstream %s can be reached again", self.name)
        self.link = "up"
        self._asked_in_vain = 0
        self.due = time.monotonic() + IDLE * random.uniform(0.8, 1.0)

    async def lost(self, why: str) -> None:
        """A connection to it did not come about."""
        if self.link != "down":
            logger.warning("upstream %s cannot be reached: %s", self.name, why)
        self.link = "down"
        self.due = time.monotonic() + random.uniform(*DOWN)
        # What was connected before is most likely dead as well, and would only be found out late.
        await self.connections.forget()

    def doubt(self) -> None:
        """A connection broke or fell silent: look at once whether the link is gone."""
        self.due = time.monotonic()

    async def ask(self) -> None:
        """One probe; afterwards `link` and `due` are up to date."""
        asking = self._asking = asyncio.create_task(self._get(), name=f"probe {self.name}")
        self._asked_in_vain += 1
        patience = self._patience()
        try:
            await asyncio.wait({asking}, timeout=patience)
        finally:
            asking.cancel()
        await asyncio.wait({asking})
        if self._stopped:
            return
        if asking.cancelled():
            await self.lost(f"no answer within {patience:g} s")
        elif error := asking.exception():
            if not isinstance(error, EXPECTED):
                raise error
            await self.lost(str(error) or type(error).__name__)
        else:
            self._look_at_key(asking.result())
            self.answered()

    def stop(self) -> None:
        self._stopped = True
        if self._asking is not None:
            self._asking.cancel()
        if self._lookup is not None:
            self._lookup.cancel()

    async def _resolve(self) -> None:
        """One look-up of the name at a time. Without a network it may take a minute, in one of
        few threads that other look-ups need, and it goes on when nobody waits for it any more."""
        if self._lookup is None or self._lookup.done():
            url = httpx.URL(self.settings.proxy or self.settings.base_url)
            loop = asyncio.get_running_loop()
            self._lookup = asyncio.ensure_future(loop.getaddrinfo(url.host, url.port))
            self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._lookup)

    def _patience(self) -> float:
        connect = self.settings.timeouts.connect
        if self.link == "down" and self._asked_in_vain % LONG_EVERY:
            return min(connect, SHORT)
        return connect

    async def _get(self) -> int:
        headers: dict[str, str] = {}
        with suppress(EdgeError):  # a key that is missing is told to those who ask for an answer
            headers = read_key(self.name, self.settings).headers()
        await self._resolve()
        async with self.connections.lend() as lent:
            url = self.settings.base_url.rstrip("/") + "/models"
            request = lent.request("GET", url, headers)
            response = await lent.client.send(request, stream=True)
            try:
                await self._read(lent, response)
            finally:
                await response.aclose()
        return response.status_code

    async def _read(self, lent: Lent, response: httpx.Response) -> None:
        """To the end, so that the connection can be used again, unless that is far."""
        size = 0
        with suppress(httpx.HTTPError):
            async for some in response.aiter_bytes():
                size += len(some)
                if size > LARGEST:
                    return
            lent.reusable = True

    def _look_at_key(self, status: int) -> None:
        refused = status in (401, 403)
        if refused and not self._key_refused:
            logger.warning("upstream %s does not accept the key (%d)", self.name, status)
        self._key_refused = refused
