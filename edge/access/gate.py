"""The gate in front of all doors: who comes with what, and whether it opens.

Owned by the event loop.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import msgspec

from edge.access.key import EVERYTHING, Door, Key
from edge.access.keyring import Keyring
from edge.access.meter import Account, Meter
from edge.access.networks import Networks
from edge.access.own import OWN, OwnKey
from edge.access.signature import Replays, same, sign
from edge.access.suspects import Suspects
from edge.errors import Forbidden, InvalidKey
from edge.types import Priority

ANYBODY = "anybody"
"""Whose the requests are that need no key."""


class Signed(msgspec.Struct, frozen=True):
    """A signed request, as `signature.py` says."""

    number: str
    timestamp: str
    signature: str
    method: str
    target: str
    body: bytes


class Presented(msgspec.Struct, frozen=True):
    """What somebody comes with. token: a key, or an empty text."""

    door: Door
    address: str
    token: str = ""
    signed: Signed | None = None


class Visitor:
    """Who was let in, and what for. key: None where none is needed."""

    def __init__(self, key: Key | None, meter: Meter) -> None:
        self._key = key
        self._meter = meter

    @property
    def name(self) -> str:
        return ANYBODY if self._key is None else self._key.name

    @property
    def key(self) -> Key | None:
        return self._key

    @property
    def account(self) -> Account:
        return self._meter.account(self.name)

    def check(self, model: str, priority: Priority, route: str) -> None:
        """Raises `Forbidden` for what the key is not for. route: that the request asks for; with
        `auto` and a key that is `local_only` the door asks for `local`."""
        self.check_model(model)
        scope = EVERYTHING if self._key is None else self._key.scope
        if scope.priorities is not None and priority not in scope.priorities:
            raise self._forbidden(f"{priority} requests", "edge.priority")
        if scope.local_only and route == "cloud":
            raise self._forbidden("the cloud", "edge.route")

    def check_model(self, model: str) -> None:
        """Raises `Forbidden` where the key is not for it."""
        if self._key is not None and not self._key.scope.allows_model(model):
            raise self._forbidden(f"the model `{model}`", "model")

    @property
    def local_only(self) -> bool:
        return self._key is not None and self._key.scope.local_only

    def check_batch(self) -> None:
        """Raises `Forbidden`: nobody looks at each line of a batch for what a key is not for."""
        scope = EVERYTHING if self._key is None else self._key.scope
        if scope.models is not None or scope.priorities is not None or scope.local_only:
            raise self._forbidden("batches, as it is for some requests only", None)

    def check_admin(self) -> None:
        if self._key is not None and not self._key.scope.admin:
            raise self._forbidden("administration", None)

    def admitted(self) -> AbstractContextManager[Account | None]:
        """For as long as a request of his runs. Raises `RateLimited`."""
        return nullcontext() if self._key is None else self._meter.admitted(self._key)

    def _forbidden(self, what: str, param: str | None) -> Forbidden:
        return Forbidden(f"the key {self.name!r} is not for {what}", param=param)


class Gate:
    """required: False where a request without a key is anybody's, and all keys are let in."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        required: bool,
        own: OwnKey | None = None,
        networks: Networks | None = None,
    ) -> None:
        """own: of the commands of this machine. networks: that may come at all over HTTP."""
        self.keyring = keyring
        self.networks = networks or Networks()
        self.own = own
        self.required = required
        self.meter = Meter()
        self._suspects = Suspects()
        self._replays = Replays()

    async def admit(self, presented: Presented) -> Visitor:
        """Raises `InvalidKey`, `Forbidden`, and `RateLimited` for floods of bad keys."""
        if not self.required:
            return Visitor(None, self.meter)
        try:
            return Visitor(self._opened(presented), self.meter)
        except InvalidKey:
            await self._suspects.hold(presented.address)
            raise

    def _opened(self, presented: Presented) -> Key:
        if self.own is not None and self.own.opens(presented.token, presented.address):
            return OWN
        if presented.signed is not None:
            key = self._signer(presented.signed)
        elif presented.token:
            key = self.keyring.find(presented.token)
        else:
            raise InvalidKey("this needs a key", hint="Authorization: Bearer edge_…")
        if key is None:
            raise InvalidKey("the key is not valid here")
        if key.signed and presented.signed is None:
            raise InvalidKey(f"the key {key.name!r} is for signed requests only")
        if not key.comes_from(presented.address):
            raise Forbidden(f"the key {key.name!r} is not for {presented.address}")
        if key.scope.doors is not None and presented.door not in key.scope.doors:
            raise Forbidden(f"the key {key.name!r} is not for {presented.door.upper()}")
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
