"""The names of a model's classes and the letters of a reader: from the model's folder, or from what
exporters write into the model file."""

from __future__ import annotations

import re
from pathlib import Path

from edge.errors import BadModelFile
from edge.onnx.task import Model
from edge.repository.folder import inside
from edge.repository.picture import PictureSettings

MOST_BYTES = 4 * 1024 * 1024
"""Of a file of labels."""

NAMED = re.compile(r"""(\d+):\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
"""An entry of what Ultralytics writes as `names`: a dictionary as Python prints it."""


def labels_of(settings: PictureSettings, model: Model) -> list[str]:
    """Names of the classes in their order; none where nobody said. Raises `BadModelFile`."""
    if isinstance(settings.labels, list):
        return settings.labels
    if settings.labels is not None:
        return _lines(model.folder, settings.labels, "labels")
    found = {int(n): text[1:-1] for n, text in NAMED.findall(model.metadata.get("names", ""))}
    if sorted(found) != list(range(len(found))):
        return []
    return [re.sub(r"\\(.)", r"\1", found[number]) for number in range(len(found))]


def characters_of(settings: PictureSettings, model: Model) -> list[str]:
    """The letters that a reader knows, without blank and space; PaddleOCR's exports carry them as
    `character`. Raises `BadModelFile`."""
    if settings.characters is not None:
        return _lines(model.folder, settings.characters, "characters")
    if not (written := model.metadata.get("character")):
        raise BadModelFile(
            "the model file does not carry its characters: model.yaml has to name a file of them "
            "(picture.characters)"
        )
    return written.split("\n")


def _lines(folder: Path, name: str, key: str) -> list[str]:
    path = inside(folder, name, f"picture.{key}")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadModelFile(f"picture.{key}: {name} is larger than {MOST_BYTES:,} bytes")
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadModelFile(f"picture.{key}: {name} cannot be read: {error}") from None
    # Not splitlines(): among the letters of a reader are those that it takes for ends of lines.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
