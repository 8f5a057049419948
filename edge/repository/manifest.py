"""model.yaml: what a model is for, said by whoever looks after it. Without one it takes tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from edge.errors import BadModelFile
from edge.repository.picture import PictureSettings
from edge.repository.text import TextSettings

LARGEST = 1 << 20
"""Characters of a manifest."""

HINT = "docs/onnx.md shows what a manifest looks like"

TaskName = Literal["tensors", "embed", "rerank", "classify", "detect", "read"]

OF_TEXT = ("embed", "rerank")
OF_PICTURES = ("classify", "detect", "read")


class Batching(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """max: rows computed together at most; 1 for none together. delay_ms: how long the first of
    them waits for others. None: config.pbtxt's, else the appliance's."""

    max: Annotated[int, Meta(ge=1, le=4096)] | None = None
    delay_ms: Annotated[float, Meta(ge=0, le=10_000)] | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """text, picture: how it is fed, for tasks of that kind; None for the defaults."""

    task: TaskName = "tensors"
    text: TextSettings | None = None
    picture: PictureSettings | None = None
    batch: Batching = Batching()

    def __post_init__(self) -> None:
        if self.text is not None and self.task not in OF_TEXT:
            raise ValueError(f"`text` is for the tasks {', '.join(OF_TEXT)}, not for {self.task}")
        if self.picture is not None and self.task not in OF_PICTURES:
            raise ValueError(
                f"`picture` is for the tasks {', '.join(OF_PICTURES)}, not for {self.task}"
            )
        if self.picture is not None and self.picture.then is not None and self.task != "detect":
            raise ValueError(f"`picture.then` is for the task detect, not for {self.task}")


def read_manifest(text: str) -> Manifest:
    """Raises `BadModelFile` with the place at fault."""
    if len(text) > LARGEST:
        raise BadModelFile(f"it has {len(text)} characters, {LARGEST} at most are read")
    try:
        return msgspec.convert(_tree(text), Manifest)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise BadModelFile(f"{line}not valid YAML: {problem}", hint=HINT) from None
    except RecursionError:
        raise BadModelFile("nested too deeply", hint=HINT) from None
    except (msgspec.ValidationError, ValueError) as error:
        raise BadModelFile(str(error), hint=HINT) from None


def _tree(text: str) -> Any:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):  # a few lines of them stand for gigabytes
            raise BadModelFile(f"aliases like *{event.anchor} are not read", hint=HINT)
    return yaml.safe_load(text) or {}
