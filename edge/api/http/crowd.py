"""Who holds the connections to the HTTP door, and who has to give one up when there are no more.

One machine gets a part of them at most. When all are taken, whoever has the most loses one on which
nothing is asked, so that a few machines that only hold on keep nobody out. Owned by the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge.access.suspects import network_of
from edge.api.http.nuisances import Nuisances
from edge.config.doors import Limits
from edge.metrics import Metrics


class Connection(Protocol):
    """What a crowd needs to know of one."""

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered on it, beyond its headers."""

    def drop(self, reason: str) -> None:
        """End it at once, and leave the crowd. reason: a label of `http_dropped`."""


class Crowd:
    """limits: those of now, which may change at any time; who is in stays in."""

    def __init__(self, limits: Callable[[], Limits], metrics: Metrics) -> None:
        self.nuisances = Nuisances()
        """Who joins and is one is held for `HOLD_SECONDS`, and heard by nobody."""

        self._limits = limits
        self._metrics = metrics
        self._by_network: dict[str, dict[Connection, None]] = {}
        """Networks as bad keys are counted by, and their connections, the oldest first."""

        self._networks: dict[Connection, str] = {}
        metrics.http_connections.set_function(lambda: len(self._networks))

    @property
    def limits(self) -> Limits:
        return self._limits()

    @property
    def size(self) -> int:
        return len(self._networks)

    @property
    def addresses(self) -> int:
        return len(self._by_network)

    def join(self, one: Connection, address: str) -> bool:
        """False where there is no room for it, which is counted."""
        network = network_of(address)
        own = len(self._by_network.get(network, ()))
        if own >= self.limits.max_connections_per_address:
            self.count("address")
            return False
        if self.size >= self.limits.max_connections and not self._make_room(own):
            self.count("full")
            return False
        self._networks[one] = network
        self._by_network.setdefault(network, {})[one] = None
        return True

    def leave(self, one: Connection) -> None:
        """Also for one that was never in."""
        network = self._networks.pop(one, None)
        if network is None:
            return
        del self._by_network[network][one]
        if not self._by_network[network]:
            del self._by_network[network]

    def count(self, reason: str) -> None:
        """A connection that was dropped by us."""
        self._metrics.http_dropped.labels(reason).inc()

    def _make_room(self, own: int) -> bool:
        """By an idle connection of the machine that has the most of them, and more than `own`
        would be with one more."""
        most = max(self._by_network.values(), key=len)
        if len(most) <= own + 1:
            return False
        idle = next((one for one in most if one.idle), None)
        if idle is None:
            return False
        idle.drop("displaced")
        return True
