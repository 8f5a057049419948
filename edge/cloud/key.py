"""The secret that an upstream knows us by: read when it is needed, shown nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edge.cloud.failure import LONGEST_MESSAGE
from edge.config import answering
from edge.errors import UpstreamError


class Key:
    """What to send as a bearer token, empty where none is needed. Its repr tells nothing."""

    def __init__(self, value: str) -> None:
        self._value = value

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def mask(self, text: str) -> str:
        """A stranger's text made safe to show: without the key, and not too long."""
        if self._value:
            text = text.replace(self._value, "***")
        return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "…"


def read_secret(path: Path) -> Key:
    """The key in a file. Raises `OSError`, and ValueError where it is none; both name the file and
    never what is in it."""
    value = path.read_bytes().strip()
    # Anything else would be refused deep inside the HTTP library, with the key in the message.
    if not value or not all(0x21 <= byte <= 0x7E for byte in value):
        raise ValueError(f"{path} has to hold one line of ASCII")
    return Key(value.decode("ascii"))


def read_key(
    name: str, settings: answering.Upstream, environ: Mapping[str, str] = os.environ
) -> Key:
    """The upstream's key as it is now, so that a new one needs no restart.

    Raises `UpstreamError`, which names the file and never what is in it.
    """
    path = _path(name, settings, environ)
    if path is None:
        return Key("")
    try:
        return read_secret(path)
    except OSError as error:
        raise UpstreamError(
            f"the key of upstream `{name}` cannot be read: {path}: {error.strerror}",
            param=f"upstreams.{name}",
            hint="make it a file that the service's user may read",
        ) from None
    except ValueError as error:
        raise UpstreamError(
            f"the key of upstream `{name}` is no key: {error}", param=f"upstreams.{name}"
        ) from None


def _path(name: str, settings: answering.Upstream, environ: Mapping[str, str]) -> Path | None:
    if settings.api_key_file is not None:
        return Path(settings.api_key_file)
    if settings.api_key_credential is None:
        return None
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise UpstreamError(
            f"the key of upstream `{name}` is a systemd credential, and there are none here",
            param=f"upstreams.{name}.api_key_credential",
            hint="start it by systemd with LoadCredential=, or use api_key_file",
        )
    return Path(folder) / settings.api_key_credential
