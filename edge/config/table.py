"""The table of all configuration keys, for the documentation and for hints in errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from edge.config.section import Section
from edge.config.tree import Config


class Row(msgspec.Struct):
    """One line of the generated reference table of keys."""

    key: str
    type: str
    default: str
    description: str


def reference() -> list[Row]:
    """Every key with its type, default and meaning, in the order of the tree."""
    return _rows(Config, "")


def _rows(section: type[Section], prefix: str) -> list[Row]:
    rows: list[Row] = []
    hints = get_type_hints(section, include_extras=True)
    for field in msgspec.structs.fields(section):
        annotation, key = hints[field.name], f"{prefix}{field.name}"
        if nested := section_of(annotation):
            name = ".NAME" if get_origin(annotation) is dict else ""
            rows += _rows(nested, f"{key}{name}.")
            continue
        meta = [m for m in annotation.__metadata__ if isinstance(m, Meta) and m.description]
        rows.append(
            Row(
                key=f"{key}.NAME" if get_origin(get_args(annotation)[0]) is dict else key,
                type=_describe(annotation),
                default=_default(field),
                description=meta[0].description or "",
            )
        )
    return rows


def section_of(annotation: Any) -> type[Section] | None:
    """The section at a key, by itself or under names of the user's; None for a value."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    # Python 3.10 takes `list[str]` for a type.
    plain = isinstance(annotation, type) and get_origin(annotation) is None
    return annotation if plain and issubclass(annotation, Section) else None


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return "none"
    return msgspec.json.encode(field.default).decode()


def _describe(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metas = get_args(annotation)
        bounds = [
            f"{word} {getattr(meta, name)}"
            for meta in metas
            for name, word in (("ge", "from"), ("gt", "above"), ("le", "to"))
            if getattr(meta, name, None) is not None
        ]
        return " ".join([_describe(base), *bounds])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin is dict:
        return _describe(get_args(annotation)[1])
    if origin is list:
        return f"list of {_describe(get_args(annotation)[0])}"
    if get_args(annotation):
        return " or ".join(_describe(arg) for arg in get_args(annotation))
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[annotation]
