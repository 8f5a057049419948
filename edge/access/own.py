"""The key of this machine's own commands: `edge status` and its like need none to be made for them.

The daemon writes it at its start, readable for its own user and root alone; it is good from this
machine only, and for everything.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from pathlib import Path

from edge.access.key import Key, Scope
from edge.disk import write_atomically

OWN = Key("edge-cli", [], Scope(admin=True))


class OwnKey:
    """file: in the folder of the keys, where no other key can be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token: str | None = None

    def write(self) -> None:
        """A new one for this life of the daemon. Raises `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._token = f"edge_own_{secrets.token_urlsafe(32)}"
        write_atomically(self._folder / "own", self._token.encode(), mode=0o600)

    def opens(self, token: str, address: str) -> bool:
        if self._token is None or not hmac.compare_digest(self._token.encode(), token.encode()):
            return False
        try:
            return ipaddress.ip_address(address).is_loopback
        except ValueError:
            return False


def own_token(folder: Path) -> str | None:
    """What the daemon wrote there; None where there is nothing, or nothing for us."""
    try:
        return (folder / "own").read_text()
    except (OSError, UnicodeDecodeError):
        return None
