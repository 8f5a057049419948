"""Who has come with bad keys lately: the answer to them takes longer, and then there is none.

By address, and of IPv6 by the network of 64 bits that one machine has to itself. Good keys are
never held up by it, so that a whole plant behind one address does not suffer for one machine. Owned
by the event loop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from edge.errors import RateLimited

FREE = 5
"""Bad keys of an address that are answered at once."""

FORGIVEN_SECONDS = 12.0
"""After which one of them is forgotten."""

LONGEST_SECONDS = 5.0
MOST_HELD = 4
"""Refusals of one address that are held back at once; more are told to come later, at once."""

MOST_KNOWN = 10_000


@dataclass
class Suspect:
    failures: float = 0.0
    since: float = field(default_factory=time.monotonic)
    held: int = 0


class Suspects:
    def __init__(self) -> None:
        self._known: OrderedDict[str, Suspect] = OrderedDict()

    async def hold(self, address: str) -> None:
        """Wait, as long as this address deserves, before a bad key is refused.

        Raises `RateLimited` for one that does not wait for its refusals.
        """
        suspect = self._suspect(address)
        suspect.failures += 1
        delay = min(LONGEST_SECONDS, 0.1 * 2 ** min(suspect.failures - FREE, 10.0))
        if suspect.failures <= FREE:
            return
        if suspect.held >= MOST_HELD:
            wait = suspect.failures * FORGIVEN_SECONDS
            raise RateLimited("too many bad keys came from here", retry_after=min(wait, 300.0))
        suspect.held += 1
        try:
            await asyncio.sleep(delay)
        finally:
            suspect.held -= 1

    def _suspect(self, address: str) -> Suspect:
        now, network = time.monotonic(), network_of(address)
        suspect = self._known.setdefault(network, Suspect())
        self._known.move_to_end(network)
        suspect.failures = max(0.0, suspect.failures - (now - suspect.since) / FORGIVEN_SECONDS)
        suspect.failures = min(suspect.failures, 1000.0)
        suspect.since = now
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return suspect


def network_of(address: str) -> str:
    try:
        host = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if host.version == 4:
        return str(host)
    if host.ipv4_mapped:
        return str(host.ipv4_mapped)
    return str(ipaddress.ip_network((host, 64), strict=False))
