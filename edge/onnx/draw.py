"""What was seen, drawn into the picture: boxes with their labels, or the best label in a corner.

With Pillow's own font, which has Latin, Greek and Cyrillic letters; others become empty squares.
"""

from __future__ import annotations

from io import BytesIO
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from edge.tensors import Detection, Label

COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""By class, one after the other; they can be told apart with any colour vision (Okabe and Ito)."""

DARK = {"#0072b2", "#d55e00"}
"""Those that white letters can be read on."""

QUALITY = 90
"""Of JPEGs."""

LONGEST_CAPTION = 60
"""Letters."""


def drawn(
    image: Image.Image,
    labels: list[Label] | None,
    detections: list[Detection] | None,
    form: Literal["jpeg", "png"],
) -> bytes:
    """The picture as it came (of mode RGB) with what was seen, encoded. Changes the image."""
    canvas = ImageDraw.Draw(image)
    longer = max(image.size)
    width = max(2, longer // 400)
    font = ImageFont.load_default(max(11, longer // 50))
    for found in reversed(detections or []):  # the surest lie on top
        color = COLORS[found.number % len(COLORS)]
        left, top, right, bottom = found.box
        canvas.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), None, color, width
        )
        _write(canvas, font, _caption(found), (left, top), color)
    for label in (labels or [])[:1]:
        color = COLORS[(label.number or 0) % len(COLORS)]
        _write(canvas, font, f"{label.label} {label.score:.2f}", (0, 0), color)
    encoded = BytesIO()
    image.save(encoded, form, **({"quality": QUALITY} if form == "jpeg" else {}))
    return encoded.getvalue()


def _caption(found: Detection) -> str:
    if found.text is not None:
        return found.text
    return f"{found.label} {found.score:.2f}"


def _write(
    canvas: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text: str,
    corner: tuple[float, float],
    color: str,
) -> None:
    """On a strip above the corner, or below it where there is no room."""
    line = " ".join(text.split())[:LONGEST_CAPTION]
    _, _, right, bottom = canvas.textbbox((0, 0), line, font)
    height = bottom + 2
    x, y = corner[0], corner[1] - height if corner[1] >= height else corner[1]
    canvas.rectangle((x, y, x + right + 4, y + height), color)
    canvas.text((x + 2, y), line, "#ffffff" if color in DARK else "#000000", font)
