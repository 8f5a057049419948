"""Machines whose requests are refused one after the other: most of their new connections are held
for a while and not listened to.

Each refusal is cheap, and hundreds a second take a core from the models; whoever waits for one
cannot ask for the next. Nobody can tell who of the programs behind one address it is; the others'
open connections go on as before. This machine's own programs are let alone. Owned by the event
loop.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.access.suspects import network_of

FREE = 30.0
"""Refusals of an address that have no consequence."""

FORGIVEN_A_SECOND = 1.0
MOST = 60.0
"""What is counted at most, so that whoever stops is let alone half a minute later."""

CONNECTIONS_A_SECOND = 3.0
"""That are listened to all the same."""

HOLD_SECONDS = 5.0
"""Then they are ended. Until then they count among the connections of their address, and are the
first to go when there are no more."""

MOST_KNOWN = 10_000

REFUSALS = frozenset({400, 401, 413, 431})


@dataclass
class Record:
    """refusals: not yet forgiven, at the time `at`. allowance: connections to be listened to."""

    at: float
    refusals: float = 0.0
    allowance: float = CONNECTIONS_A_SECOND


class Nuisances:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, Record] = OrderedDict()

    def refused(self, address: str) -> bool:
        """Count one; returns whether the address is a nuisance by now."""
        network = network_of(address)
        record = self._known.setdefault(network, Record(self._clock()))
        self._known.move_to_end(network)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        self._catch_up(record)
        record.refusals = min(MOST, record.refusals + 1)
        return record.refusals > FREE

    def hears(self, address: str) -> bool:
        """Whether to listen to one more connection."""
        record = self._known.get(network_of(address))
        if record is None:
            return True
        self._catch_up(record)
        if record.refusals <= FREE:
            return True
        if record.allowance < 1.0:
            return False
        record.allowance -= 1.0
        return True

    def _catch_up(self, record: Record) -> None:
        now = self._clock()
        passed, record.at = now - record.at, now
        record.refusals = max(0.0, record.refusals - passed * FORGIVEN_A_SECOND)
        most = CONNECTIONS_A_SECOND
        record.allowance = min(most, record.allowance + passed * most)


class Refusals:
    """Middleware that counts refusals, and ends the connections of nuisances behind them."""

    def __init__(self, app: ASGIApp, nuisances: Nuisances) -> None:
        self._app = app
        self._nuisances = nuisances

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, server = scope.get("client"), scope.get("server")
        if scope["type"] != "http" or not client or not server or client[0] == server[0]:
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            starts = message["type"] == "http.response.start"
            refused = starts and (message["status"] in REFUSALS or _is_flood(message, scope))
            if refused and self._nuisances.refused(client[0]):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, counted)


def _is_flood(message: Message, scope: Scope) -> bool:
    """429 to somebody who was not let in, and not to a key that has used up what it may."""
    return message["status"] == 429 and "visitor" not in scope.get("state", {})
