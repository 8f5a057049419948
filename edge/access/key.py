"""A key as it is kept: whose it is, what it may do and how much, and the digests of its secrets.

A secret has 256 random bits, so that one round of SHA-256 keeps it as safe as a slow hash would
keep a password, and checking one costs next to nothing.
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.types import Priority

Door = Literal["http", "mqtt"]

TOKEN = re.compile(r"edge_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")
"""`edge_`, the number under which the digest is found, `_`, the secret."""

_ID_SIGNS = "abcdefghijklmnopqrstuvwxyz234567"

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Secret(msgspec.Struct, frozen=True):
    """One of the secrets of a key. digest: SHA-256 of the secret, hex. Times are epoch seconds.

    expires: when it ends, None for never.
    """

    id: str
    digest: str
    created: float
    expires: float | None = None

    def valid(self, now: float) -> bool:
        return self.expires is None or now < self.expires


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a key may do; None for all there is of a kind.

    models: names as requests have them, `*` and `?` for any signs. local_only: its requests do not
    leave the appliance. admin: the routes below /admin.
    """

    doors: list[Door] | None = None
    models: list[str] | None = None
    priorities: list[Priority] | None = None
    local_only: bool = False
    admin: bool = False

    def allows_model(self, name: str) -> bool:
        return self.models is None or any(fnmatch.fnmatchcase(name, one) for one in self.models)


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much a key may ask for; None for no bound but that of the appliance. Days are UTC's."""

    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    concurrent: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_day: Annotated[int, Meta(ge=1)] | None = None


EVERYTHING = Scope()
UNBOUNDED = Quota()


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """addresses: networks that it may come from beside having the secret, None for any.
    signed: only with signed requests, so that nobody can send again what he has overheard."""

    name: Name
    secrets: list[Secret]
    scope: Scope = Scope()
    quota: Quota = Quota()
    addresses: list[str] | None = None
    signed: bool = False

    def valid(self, now: float) -> bool:
        """Whether one of its secrets has not ended."""
        return any(one.valid(now) for one in self.secrets)

    def comes_from(self, address: str) -> bool:
        """False for anything that is no address, where it matters."""
        if self.addresses is None:
            return True
        try:
            host = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(host, "ipv4_mapped", None)
        host = mapped or host
        networks = [ipaddress.ip_network(one, strict=False) for one in self.addresses]
        return any(host in network for network in networks if network.version == host.version)


def make_secret(expires: float | None = None) -> tuple[Secret, str]:
    """A new secret to keep, and the token to give away: it cannot be had again."""
    number = "".join(secrets.choice(_ID_SIGNS) for _ in range(8))
    word = secrets.token_urlsafe(32)
    return Secret(number, digest_of(word), time.time(), expires), f"edge_{number}_{word}"


def digest_of(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def matches(secret: Secret | None, word: str) -> bool:
    """In a time that tells nothing; also where there is no such secret."""
    kept = secret.digest if secret is not None else "0" * 64
    same = hmac.compare_digest(kept, digest_of(word))
    return same and secret is not None
