"""Manifests are JSON that says its format first: a later release may write another one. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from edge.errors import BundleRefused

T = TypeVar("T", bound=msgspec.Struct)


class _Format(msgspec.Struct, frozen=True):
    format: int


def decode_as(
    kind: type[T], content: bytes, known: int, check: Callable[[T], None], hint: str
) -> T:
    """The manifest in these bytes. known: the one format that can be read, hint: what helps against
    another. check: raises `msgspec.ValidationError` for what a type cannot say.

    Raises `BundleRefused`.
    """
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found != known:
            message = f"it has format {found}, and this release reads format {known}"
            raise BundleRefused(message, hint=hint)
        manifest = msgspec.json.decode(content, type=kind)
        check(manifest)
    except msgspec.DecodeError as error:
        raise BundleRefused(f"its manifest cannot be used: {error}", hint="make it anew") from None
    return manifest
