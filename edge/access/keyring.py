"""The keys that there are: a file each in `<state>/keys`, written by the CLI, read by the daemon.

A file changes as a whole (`write_atomically`), so neither sees half of one, and a daemon notices a
change by the folder's time without being told. What cannot be read is left out and logged: it
opens no door.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge.access.key import (
    EVERYTHING,
    TOKEN,
    UNBOUNDED,
    Key,
    Quota,
    Scope,
    Secret,
    make_secret,
    matches,
)
from edge.access.own import OWN
from edge.access.visitor import ANYBODY
from edge.disk import sync, write_atomically
from edge.errors import InvalidRequest, KeyExists, KeyNotFound

logger = logging.getLogger(__name__)

RESERVED = (OWN.name, ANYBODY)
"""Names under which others are known than those who have a key."""

LOOK_SECONDS = 0.5
"""How old what is known of the folder may be."""


class Keyring:
    """folder: made when the first key is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looked_at = float("-inf")
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._secrets: dict[str, tuple[Key, Secret]] = {}

    # For the daemon

    def find(self, token: str) -> Key | None:
        """The key that a token is of, where it is one and has not ended."""
        parts = TOKEN.fullmatch(token)
        number, word = parts.groups() if parts else ("", token)
        key, secret = self.signer(number) or (None, None)
        if not matches(secret, word) or secret is None or not secret.valid(time.time()):
            return None
        return key

    def signer(self, number: str) -> tuple[Key, Secret] | None:
        """The key with a secret of that number, which may have ended; also if it was made just
        now, for whoever has it has waited for it to be made."""
        self._refresh()
        if number not in self._secrets:
            self._looked_at = float("-inf")
            self._refresh()
        return self._secrets.get(number)

    def named(self, name: str) -> Key | None:
        """Also if it was made just now."""
        self._refresh()
        if name not in self._keys:
            self._looked_at = float("-inf")
            self._refresh()
        return self._keys.get(name)

    @property
    def empty(self) -> bool:
        self._refresh()
        return not self._keys

    def known(self) -> list[Key]:
        """All, as they were a moment ago."""
        self._refresh()
        return list(self._keys.values())

    # For the CLI, and who lists

    def all(self) -> list[Key]:
        """By name."""
        self._refresh(at_once=True)
        return [self._keys[name] for name in sorted(self._keys)]

    def add(
        self,
        name: str,
        scope: Scope = EVERYTHING,
        quota: Quota = UNBOUNDED,
        *,
        addresses: list[str] | None = None,
        signed: bool = False,
        expires: float | None = None,
    ) -> str:
        """A new key; returns its token. Raises `KeyExists`, `InvalidRequest` and `OSError`."""
        if name in RESERVED:
            raise InvalidRequest(f"{name!r} means something else here: take another name")
        secret, token = make_secret(expires)
        key = Key(name, [secret], scope, quota, addresses, signed)
        try:
            msgspec.convert(msgspec.to_builtins(key), Key)
            key.comes_from("127.0.0.1")
        except (msgspec.ValidationError, ValueError) as error:
            raise InvalidRequest(f"no such key can be: {error}") from None
        with self._turn():
            if self._path(name).exists():
                raise KeyExists(f"there is a key {name!r} already", hint="edge keys rotate")
            self._write(key)
        return token

    def rotate(self, name: str, overlap: float, expires: float | None = None) -> str:
        """Another secret for a key, whose others end in so many seconds; returns the new token.

        Raises `KeyNotFound` and `OSError`.
        """
        with self._turn():
            key, now = self._read(name), time.time()
            secret, token = make_secret(expires)
            ending = now + overlap
            others = [
                msgspec.structs.replace(one, expires=min(one.expires or ending, ending))
                for one in key.secrets
                if one.valid(now)
            ]
            self._write(msgspec.structs.replace(key, secrets=[*others, secret]))
        return token

    def remove(self, name: str) -> None:
        """Raises `KeyNotFound` and `OSError`."""
        with self._turn():
            self._read(name)
            self._path(name).unlink()
            sync(self._folder)

    # The files

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> Key:
        self._refresh(at_once=True)
        key = self._keys.get(name)
        if key is None:
            raise KeyNotFound(f"there is no key {name!r}", hint="edge keys list")
        return key

    def _write(self, key: Key) -> None:
        body = msgspec.json.format(msgspec.json.encode(key), indent=2)
        write_atomically(self._path(key.name), body, b"\n", mode=0o600)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer at a time."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _refresh(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            facts = self._folder.stat()
        except OSError:
            self._stamp, self._keys, self._secrets = None, {}, {}
            return
        # Two changes within one tick of the file system's clock have one time: a folder that has
        # just changed is looked at again.
        stamp = (facts.st_ino, facts.st_mtime_ns)
        fresh = time.time_ns() - facts.st_mtime_ns < 2_000_000_000
        if stamp == self._stamp and not fresh and not at_once:
            return
        self._stamp = stamp
        found = [key for path in self._folder.glob("*.json") if (key := _key_in(path))]
        self._keys = {key.name: key for key in found}
        self._secrets = {one.id: (key, one) for key in found for one in key.secrets}


def _key_in(path: Path) -> Key | None:
    try:
        key = msgspec.json.decode(path.read_bytes(), type=Key)
        key.comes_from("127.0.0.1")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.error("the key in %s cannot be read, and opens nothing: %s", path, error)
        return None
    if key.name != path.stem:
        logger.error("%s has the key %r: a key is in a file of its name", path, key.name)
        return None
    return key
