"""What a name stands for: `<dir>/names/<name>.json`, an ordered list of versions, one active.

Files are replaced whole. Only `ModelStore` writes them, and only while it holds its lock.
"""

from __future__ import annotations

import datetime
import os
import pwd
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.disk import write_atomically
from edge.errors import StoreBroken
from edge.modelstore.adapter import KIND, AdapterHeader
from edge.modelstore.gguf import GgufHeader


class Measured(msgspec.Struct, frozen=True):
    """What a version with other weights was worth where it was made, beside its source.

    against: number of the version that it was made of. machine: name of the processor.
    speed: its tokens per second over the source's, the geometric mean of prompts, one stream and
    eight at once; the true ratio lies between slowest and fastest, at 98 %.
    divergence: Kullback-Leibler from the source, in nats for each token. agreement: part of the
    tokens that both think the likeliest. perplexity, source_perplexity: of the text it was
    measured on.
    """

    against: int
    machine: str | None
    speed: float
    slowest: float
    fastest: float
    divergence: float
    agreement: float
    perplexity: float
    source_perplexity: float


class Manifest(msgspec.Struct, frozen=True):
    """Where an installed file came from, and what it is.

    source: `kind:place`; revision: what the source calls this state of it. size: in bytes.
    quantization: the type of most weights. context: tokens it was trained for. memory_bytes: least
    free memory to serve it, as the catalog has it. measured: of a version that
    `edge models optimize` made. None: nobody said.
    """

    source: str
    sha256: str
    size: int
    licence: str
    pulled_at: datetime.datetime
    revision: str | None = None
    architecture: str | None = None
    quantization: str | None = None
    context: int | None = None
    chat_template: bool | None = None
    memory_bytes: int | None = None
    kind: Literal["model", "adapter"] = "model"
    measured: Measured | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a version did not come to be served, or was given up again."""

    at: datetime.datetime
    reason: str


class Version(msgspec.Struct, frozen=True):
    """One file that a name stands or stood for. number: from 1, never given twice.

    refused: the last time that it was, unless it was activated since.
    """

    number: int
    manifest: Manifest
    activated_at: datetime.datetime | None = None
    activated_by: str | None = None
    refused: Refusal | None = None


class Versions(msgspec.Struct, frozen=True):
    """All versions of one name, oldest first. latest: the highest number ever given."""

    active: int
    latest: int
    versions: tuple[Version, ...]

    def get(self, number: int) -> Version | None:
        return next((one for one in self.versions if one.number == number), None)

    def of_digest(self, sha256: str) -> Version | None:
        return next((one for one in self.versions if one.manifest.sha256 == sha256), None)

    def previous(self) -> Version | None:
        """The one that was active before the active one."""
        others = [
            one
            for one in self.versions
            if one.activated_at and not one.refused and one.number != self.active
        ]
        return max(others, key=lambda one: (one.activated_at, one.number), default=None)

    def added(self, manifest: Manifest) -> Versions:
        made = Version(self.latest + 1, manifest)
        return Versions(self.active, made.number, (*self.versions, made))

    def activated(self, number: int, by: str | None = None) -> Versions:
        """With that version active; there must be one. by: whom, if not this process' user."""
        at = datetime.datetime.now(datetime.timezone.utc)
        by = by or current_user()
        return self._changed(number, number, activated_at=at, activated_by=by, refused=None)

    def refused(self, number: int, reason: str) -> Versions:
        """With that written down."""
        return self._changed(self.active, number, refused=Refusal(now(), reason))

    def _changed(self, active: int, number: int, **fields: Any) -> Versions:
        versions = tuple(
            msgspec.structs.replace(one, **fields) if one.number == number else one
            for one in self.versions
        )
        return Versions(active, self.latest, versions)

    def without(self, number: int) -> Versions:
        kept = tuple(one for one in self.versions if one.number != number)
        return Versions(self.active, self.latest, kept)


NONE_YET = Versions(0, 0, ())


def manifest_of(
    header: GgufHeader | AdapterHeader,
    sha256: str,
    source: str,
    licence: str,
    revision: str | None = None,
) -> Manifest:
    """The manifest of a file that was checked just now."""
    manifest = Manifest(
        source=source,
        sha256=sha256,
        size=header.size_bytes,
        licence=licence,
        pulled_at=now(),
        revision=revision,
        architecture=header.architecture,
    )
    if isinstance(header, AdapterHeader):
        return msgspec.structs.replace(manifest, kind=KIND)
    return msgspec.structs.replace(
        manifest,
        quantization=header.file_type,
        context=header.context,
        chat_template=header.has_chat_template,
    )


def read(path: Path) -> Versions:
    """What the file says; no versions where there is none. Raises `StoreBroken`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Versions)
    except FileNotFoundError:
        return NONE_YET
    except (OSError, msgspec.DecodeError) as error:
        raise StoreBroken(
            f"{path} cannot be read: {error}", hint="remove it, then pull or import the model again"
        ) from None


def write(path: Path, versions: Versions) -> None:
    """Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(versions)) + b"\n")


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def current_user() -> str:
    """The name of the user that this process runs as; its number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
