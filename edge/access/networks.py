"""Who may come at all, by address: `http.allow_ips`. Changes while the appliance serves."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from edge.errors import Forbidden


class Networks:
    """entries: addresses and networks, none for everybody."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self.replace(entries)

    def replace(self, entries: Iterable[str]) -> None:
        self._allowed = [ipaddress.ip_network(one, strict=False) for one in entries]

    def check(self, address: str) -> None:
        """Raises `Forbidden`."""
        if not self._allowed:
            return
        try:
            host = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            raise Forbidden("http.allow_ips is set, and your address is unknown") from None
        host = getattr(host, "ipv4_mapped", None) or host
        if not any(host in network for network in self._allowed):
            raise Forbidden(f"{address} is not among http.allow_ips")
