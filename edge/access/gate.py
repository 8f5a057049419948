"""The gate in front of all doors: who comes with what, and whether it opens.

Owned by the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import msgspec

from edge.access.key import Door, Key
from edge.access.keyring import Keyring
from edge.access.meter import Meter
from edge.access.networks import Networks
from edge.access.own import OWN, OwnKey
from edge.access.signature import Replays, same, sign
from edge.access.suspects import Suspects
from edge.access.visitor import ANYBODYS, Visitor
from edge.errors import Forbidden, InvalidKey


class Signed(msgspec.Struct, frozen=True):
    """A signed request, as `signature.py` says."""

    number: str
    timestamp: str
    signature: str
    method: str
    target: str
    body: bytes


HINTS: dict[Door, str] = {
    "http": "Authorization: Bearer edge_…",
    "mqtt": "publish on …/as/NAME/chat, or with the User Property api-key or `api_key` in JSON",
}


class Presented(msgspec.Struct, frozen=True):
    """What somebody comes with. token: a key, or an empty text.

    address: where he is, or an empty text where a broker is between. name: of a key, where the
    broker vouches for it.
    """

    door: Door
    address: str = ""
    token: str = ""
    signed: Signed | None = None
    name: str | None = None

    @property
    def bare(self) -> bool:
        """He comes with nothing."""
        return not self.token and self.signed is None and self.name is None


class Gate:
    """required: the doors at which a request without a key is refused; at the others it is
    anybody's, and over HTTP so is one with any key at all."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        required: Collection[Door],
        meter: Meter | None = None,
        own: OwnKey | None = None,
        networks: Networks | None = None,
    ) -> None:
        """own: of the commands of this machine. networks: that may come at all over HTTP."""
        self.keyring = keyring
        self.networks = networks or Networks()
        self.own = own
        self.required = frozenset(required)
        self.meter = meter or Meter()
        self._suspects = Suspects()
        self._replays = Replays()

    async def admit(self, presented: Presented) -> Visitor:
        """Raises like `recognize`, slower for bad keys, and `RateLimited` for floods of them."""
        try:
            return self.recognize(presented)
        except InvalidKey:
            await self._suspects.hold(presented.address)
            raise

    def recognize(self, presented: Presented) -> Visitor:
        """Raises `InvalidKey` and `Forbidden`."""
        door = presented.door
        # The SDKs for OpenAI's API send a key in any case; over MQTT nobody does who has none.
        if door not in self.required and (door == "http" or presented.bare):
            return Visitor(None, self.meter)
        return Visitor(self._opened(presented), self.meter)

    def owner(self, name: str) -> Visitor:
        """Whose something is that was kept, by `Visitor.owner`, with what he may do by now.

        Raises `InvalidKey` where his key was taken away or has ended.
        """
        if name == ANYBODYS:
            return Visitor(None, self.meter)
        return Visitor(OWN if name == OWN.name else self._named(name), self.meter)

    def _opened(self, presented: Presented) -> Key:
        if self.own is not None and self.own.opens(presented.token, presented.address):
            return OWN
        key = self._shown(presented)
        if key.signed and presented.signed is None:
            raise InvalidKey(f"the key {key.name!r} is for signed requests only")
        if not key.comes_from(presented.address):
            where = presented.address or "where no address is known"
            raise Forbidden(f"the key {key.name!r} is not for {where}")
        if key.scope.doors is not None and presented.door not in key.scope.doors:
            raise Forbidden(f"the key {key.name!r} is not for {presented.door.upper()}")
        return key

    def _shown(self, presented: Presented) -> Key:
        if presented.name is not None:
            return self._named(presented.name)
        if presented.bare:
            raise InvalidKey("this needs a key", hint=HINTS[presented.door])
        if presented.signed is not None:
            key = self._signer(presented.signed)
        else:
            key = self.keyring.find(presented.token)
        if key is None:
            raise InvalidKey("the key is not valid here")
        return key

    def _named(self, name: str) -> Key:
        key = self.keyring.named(name)
        if key is None or not key.valid(time.time()):
            raise InvalidKey(f"there is no key {name!r} here")
        return key

    def _signer(self, signed: Signed) -> Key | None:
        now = time.time()
        found = self.keyring.signer(signed.number)
        digest = found[1].digest if found is not None else "0" * 64
        right = sign(digest, signed.method, signed.target, signed.timestamp, signed.body)
        if not same(right, signed.signature) or found is None:
            return None
        if not found[1].valid(now):
            return None
        self._replays.check(signed.signature, signed.timestamp, now)
        return found[0]
