"""What a software bundle says of itself: its first file, and the one that is signed.

    edge-VERSION-SYSTEM-ARCHITECTURE/manifest.json
    edge-VERSION-SYSTEM-ARCHITECTURE/manifest.sig
    …                                               its files, in its order, in the same folder

The signature is checked before anything here reads a byte of it. It is over `PURPOSE` and the
manifest, so that a signature for models and configuration (edge/bundles) never means software.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edge.bundles import archive
from edge.bundles.formats import decode_as
from edge.modelstore.catalog import Sha256

FORMAT: Final = 1
PURPOSE: Final = b"edge software update\n"

NAME = re.compile(r"edge-[A-Za-z0-9][A-Za-z0-9._+-]{0,60}/manifest\.json")
SUMS = "SHA256SUMS"
"""The file that scripts/install.sh knows a bundle by."""

Number: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")]
_Path: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~%:-]*(/[A-Za-z0-9][A-Za-z0-9._+~%:-]*){0,4}$")
]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whoever adds a field has to raise FORMAT: an older release must not overlook it."""


class File(_Strict, frozen=True):
    """size: in bytes."""

    path: _Path
    size: Annotated[int, Meta(ge=0, lt=1 << 62)]
    sha256: Sha256
    executable: bool = False

    @property
    def mode(self) -> int:
        return archive.EXECUTABLE if self.executable else archive.PLAIN


class Software(_Strict, frozen=True):
    """version: of what is in it; oldest: the oldest one that can go over to it.

    machine: as `uname -m` has it. system: ID and VERSION_ID of os-release. python: that its wheels
    are for. l4t: the release of Jetson Linux that its CUDA libraries are for, such as 36; None
    where it has none. installed_bytes: what it takes beside the bundle's files.
    """

    format: Literal[1]
    version: Number
    oldest: Number
    made_at: datetime.datetime
    machine: Annotated[str, Meta(pattern="^[a-z0-9_]{1,32}$")]
    system: Annotated[str, Meta(pattern="^[a-z0-9._-]{1,32} [a-z0-9._-]{1,16}$")]
    python: Annotated[str, Meta(pattern=r"^3\.[0-9]{1,3}$")]
    l4t: Annotated[int, Meta(ge=1)] | None
    installed_bytes: Annotated[int, Meta(ge=0, lt=1 << 62)]
    files: list[File]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def identity(self) -> str:
        """By which the installer tells builds of one version from each other."""
        return next(file.sha256 for file in self.files if file.path == SUMS)[:8]


class Head(msgspec.Struct, frozen=True):
    """The beginning of a bundle, whose signature was checked. folder: the one that all is in.

    content: the bytes of the manifest. key: fingerprint of who signed them.
    """

    folder: str
    content: bytes
    seal: bytes
    software: Software
    key: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size(self) -> int:
        """Where the first file begins."""
        return archive.span(f"{self.folder}/{archive.MANIFEST}", len(self.content)) + archive.span(
            f"{self.folder}/{archive.SIGNATURE}", len(self.seal)
        )

    def name(self, file: File) -> str:
        """Of a file in the archive."""
        return f"{self.folder}/{file.path}"


def order(number: str) -> tuple[int, ...]:
    """By which versions are compared: 1.10 is newer than 1.9, and 1.2.0 is 1.2."""
    parts = [int(part) for part in number.split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def encode(software: Software) -> bytes:
    return msgspec.json.format(msgspec.json.encode(software)) + b"\n"


def decode(content: bytes) -> Software:
    """Raises `BundleRefused`."""
    hint = "go over to a version in between first"
    return decode_as(Software, content, FORMAT, _check, hint)


def _check(software: Software) -> None:
    paths = [file.path for file in software.files]
    folders = {path[:at] for path in paths for at, sign in enumerate(path) if sign == "/"}
    if len({*paths, *folders}) < len(paths) + len(folders):
        raise msgspec.ValidationError("something is there twice")
    if not {SUMS, "bundle.env", "scripts/install.sh"} <= set(paths):
        raise msgspec.ValidationError("it lacks what installs it")
