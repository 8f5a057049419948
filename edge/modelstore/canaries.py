"""Questions whose right answers are known, asked of a model before it takes over a name.

`<dir>/canaries/<name>.yaml`, written by whoever looks after the model; read at each switch. Beside
the names and not in them, since they are for the name, whichever version it means.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from edge.errors import ConfigError
from edge.types import Message

HINT = "models/README.md shows what a canary looks like"


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One question: a text to go on with, or a chat. Asked at temperature 0.

    json_schema: binds the answer, which then has to be whole within max_tokens. text: what the
    answer has to be, but for spaces around it. regex: what has to be found in it.
    """

    prompt: Annotated[str, Meta(min_length=1)] | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] = 64
    json_schema: dict[str, Any] | None = None
    text: str | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a canary has either `prompt` or `messages`")
        if self.text is None and self.regex is None and self.json_schema is None:
            raise ValueError("a canary expects something: `text`, `regex` or `json_schema`")
        try:
            re.compile(self.regex or "")
        except re.error as error:
            raise ValueError(f"`regex` is none: {error}") from None


def load_canaries(path: Path) -> list[Canary]:
    """All of a file; none where there is no file. Raises `ConfigError` with the place at fault."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return msgspec.convert(tree or [], list[Canary])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}", hint=HINT) from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", hint=HINT) from None
