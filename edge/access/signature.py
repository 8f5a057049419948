"""Signed requests: whoever overhears one learns no secret, and cannot send it again.

    X-Edge-Key: edge_xxxxxxxx                   the token up to the secret
    X-Edge-Timestamp: 1764000000                epoch seconds
    X-Edge-Signature: sha256=<hex>              HMAC-SHA256 with the digest of the secret

over method, path with query, timestamp, and the SHA-256 of the body in hex, a line each. The key of
the HMAC is the SHA-256 of the secret in hex, because the appliance does not keep the secret itself.
Owned by the event loop.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict

from edge.errors import InvalidKey

WINDOW_SECONDS = 300.0
"""How far the clocks of two machines may be apart."""

MOST_REMEMBERED = 100_000
"""Signatures within the window; with more, a newer time is asked for than the oldest one had."""


def sign(digest: str, method: str, target: str, timestamp: str, body: bytes) -> str:
    """`sha256=<hex>` for a request. digest: of the secret, hex. target: path with query."""
    lines = "\n".join((method, target, timestamp, hashlib.sha256(body).hexdigest()))
    return f"sha256={hmac.new(digest.encode(), lines.encode(), 'sha256').hexdigest()}"


def same(right: str, given: str) -> bool:
    """In a time that tells nothing."""
    return hmac.compare_digest(right.encode(), given.encode())


class Replays:
    """Remembers the signatures that were seen while their time would still do."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._since = float("-inf")

    def check(self, signature: str, timestamp: str, now: float) -> None:
        """Raises `InvalidKey` for one that comes again, or whose time is too far from `now`."""
        try:
            sent = float(timestamp)
        except ValueError:
            raise InvalidKey("X-Edge-Timestamp is seconds since 1970") from None
        if not abs(sent - now) <= WINDOW_SECONDS:
            raise InvalidKey(
                f"X-Edge-Timestamp is more than {WINDOW_SECONDS:.0f} s from the appliance's clock",
                hint="set the clocks by NTP",
            )
        self._forget(now)
        if signature in self._seen or sent <= self._since:
            raise InvalidKey("this signed request was here before")
        self._seen[signature] = sent
        self._seen.move_to_end(signature)

    def _forget(self, now: float) -> None:
        """In the order of arrival, which is about that of their times."""
        while self._seen:
            signature, sent = next(iter(self._seen.items()))
            late = len(self._seen) >= MOST_REMEMBERED
            if not late and sent + 2 * WINDOW_SECONDS >= now:
                return
            if late:
                self._since = max(self._since, sent)
            del self._seen[signature]
