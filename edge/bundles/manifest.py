"""What a bundle says of itself: the first file in it, and the one that is signed.

The signature is checked before anything here reads a byte of it, so the checks of this file are
against mistakes. They are strict all the same: a path says nothing that its kind does not say.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edge.bundles.formats import decode_as
from edge.config.section import Name
from edge.modelstore.catalog import Sha256

FORMAT: Final = 1
ANY = "any"

MOST_BYTES = 1 << 20
"""Of a manifest, or of a file of settings in a bundle."""

Kind: TypeAlias = Literal["model", "catalog", "config", "wheel"]
Wheel: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,250}\.whl$")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whoever adds a field has to raise FORMAT: an older release must not overlook it."""


class Member(_Strict, frozen=True):
    """A file of the bundle. size: in bytes."""

    kind: Kind
    path: str
    size: Annotated[int, Meta(ge=0, lt=1 << 62)]
    sha256: Sha256


class Carried(_Strict, frozen=True):
    """A name that one of the files becomes a version of.

    activate: whether the name means that version then. The rest: see `versions.Manifest`.
    """

    name: Name
    sha256: Sha256
    activate: bool
    source: str | None = None
    licence: str = ""
    revision: str | None = None
    memory_bytes: int | None = None


class BundleManifest(_Strict, frozen=True):
    """version: rises with every bundle of that name. architecture: as `uname -m` has it, or `any`.

    python: the tag of the interpreter that the wheels are for, such as `cp311`; None for any.
    """

    format: Literal[1]
    name: Name
    version: Annotated[int, Meta(ge=1, lt=1 << 62)]
    made_at: datetime.datetime
    architecture: Annotated[str, Meta(pattern="^[a-z0-9_]{1,32}$")]
    python: Annotated[str, Meta(pattern="^cp3[0-9]{1,3}$")] | None
    files: list[Member]
    models: list[Carried]

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(member.size for member in self.files)

    def of_kind(self, kind: Kind) -> list[Member]:
        return [member for member in self.files if member.kind == kind]


def path_of(kind: Kind, sha256: str, wheel: str = "") -> str:
    """Where a file lies in a bundle."""
    places = {"model": f"models/sha256-{sha256}.gguf", "wheel": f"wheels/{wheel}"}
    return places.get(kind, f"{kind}.yaml")


def encode(manifest: BundleManifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def decode(content: bytes) -> BundleManifest:
    """Raises `BundleRefused`."""
    hint = "update this machine, or make the bundle with the release that it has"
    return decode_as(BundleManifest, content, FORMAT, _check, hint)


def _check(manifest: BundleManifest) -> None:
    """Raises `msgspec.ValidationError`."""
    for member in manifest.files:
        wheel = member.path.removeprefix("wheels/")
        if member.path != path_of(member.kind, member.sha256, wheel):
            raise msgspec.ValidationError(f"a {member.kind} cannot be called {member.path!r}")
        if member.kind == "wheel":
            msgspec.convert(wheel, Wheel)
        if member.kind in ("catalog", "config") and member.size > MOST_BYTES:
            raise msgspec.ValidationError(f"{member.path} is too large")
    for what in ([one.path for one in manifest.files], [one.name for one in manifest.models]):
        if len(set(what)) < len(what):
            raise msgspec.ValidationError("something is there twice")
    files = {member.sha256 for member in manifest.of_kind("model")}
    if {one.sha256 for one in manifest.models} != files:
        raise msgspec.ValidationError("its models and its model files do not agree")
