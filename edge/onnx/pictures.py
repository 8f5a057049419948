"""Encoded pictures to pixels: the only door by which a picture's bytes reach a decoder.

Runs in the ONNX worker, so that a file that breaks a decoder takes down the worker alone. What a
file claims to be is read from its header and bounded before anything is decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.Image import Resampling, Transpose

from edge.errors import InvalidRequest
from edge.onnx.placing import Box, Size

logger = logging.getLogger(__name__)

MOST_PIXELS = 50_000_000
"""Of a picture. Decoded it takes four bytes a pixel, and for a moment as much again: measured
200 to 440 MB at this size, but 830 MB for a WebP with transparent parts."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Of Pillow's decoders those for what cameras and scanners write."""

TIFF_PACKINGS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")
"""What cameras and microscopes write. libtiff's others go on after errors, each with a line in the
log: a fax of a few kilobytes can fill it."""

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held (CIPA DC-008, section 4.6.4)."""

UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""By that tag's value, what puts the picture upright."""

QUARTERS = (
    Transpose.TRANSPOSE,
    Transpose.ROTATE_90,
    Transpose.ROTATE_270,
    Transpose.TRANSVERSE,
)
"""Those that exchange width and height."""

PAPER = (255, 255, 255)
"""What transparent parts are laid on, as a viewer shows them."""

# The bound is the one above. Pillow's own only warns, and would do so for what is refused anyway.
Image.MAX_IMAGE_PIXELS = None


@dataclass
class Picture:
    """pixels: upright, of mode RGB. width, height: of the picture as it came, upright; the pixels
    are fewer where it was decoded to a smaller size."""

    pixels: Image.Image
    width: int
    height: int


def decode(data: bytes, least: Callable[[int, int], Size] | None = None) -> Picture:
    """The picture in `data`.

    least: from the width and height of the picture to those that are enough; a JPEG that is at
    least four times as large is decoded to a smaller size, which takes less time. Raises
    `InvalidRequest` for what is no picture, cut off, of more than `MOST_PIXELS`, or animated.
    """
    if not data:
        raise refusal("the picture is empty")
    image = _open(data)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise refusal(f"the picture has {width} x {height} pixels; {MOST_PIXELS:,} at most")
    try:
        picture = _decoded(image, least)
    except InvalidRequest:
        raise
    except OSError as error:
        raise refusal(f"the picture cannot be decoded: {error}") from None
    except Exception as error:  # a hostile file raises whatever a parser trips over
        logger.info("a picture made its decoder fail: %r", error)
        raise refusal("the picture cannot be decoded: its contents are damaged") from None
    # What is saved of them would carry it on: a colour profile of CMYK, tags that turn them again.
    picture.pixels.info.clear()
    return picture


def _decoded(image: Image.Image, least: Callable[[int, int], Size] | None) -> Picture:
    if _has_more(image):
        raise refusal("the picture is animated or has several pages; send one of them")
    if image.format == "TIFF":
        if (packing := image.info.get("compression", "raw")) not in TIFF_PACKINGS:
            raise refusal(f"a TIFF that is packed as {packing} is not taken")
        # Pillow puts these upright itself.
        pixels = _rgb(image)
        return Picture(pixels, pixels.width, pixels.height)
    turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    width, height = image.size
    if turn in QUARTERS:
        width, height = height, width
    if least is not None and image.format == "JPEG":
        # Twice as much leaves the last step of the reduction to a better filter.
        wide, high = (2 * side for side in least(width, height))
        image.draft(None, (high, wide) if turn in QUARTERS else (wide, high))
    pixels = _rgb(image)
    return Picture(pixels if turn is None else pixels.transpose(turn), width, height)


def refusal(message: str, hint: str | None = None) -> InvalidRequest:
    return InvalidRequest(message, param="image", hint=hint)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Exception:  # of many kinds, all of which mean the same
        raise refusal(
            "the data are no picture of a known format", f"send one of {', '.join(FORMATS)}"
        ) from None


def _has_more(image: Image.Image) -> bool:
    if image.format == "TIFF":
        # Its pages are a chain; counting them would follow it to its end.
        try:
            image.seek(1)
        except EOFError:
            return False
        return True
    # The second picture of a camera's JPEG is a preview of the first.
    return image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode in ("I", "F"):
        raise refusal("the picture has 32 bits a pixel; send one of 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and leaves a white picture.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        # Converting what is RGB already would double the memory.
        return image if image.mode == "RGB" else image.convert("RGB")
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    paper = Image.new("RGB", clear.size, PAPER)
    paper.paste(clear, mask=clear.getchannel("A"))
    return paper


def resized(image: Image.Image, size: Size, box: Box) -> Image.Image:
    """That part of an image as `size`, width and height.

    Much larger ones are reduced in two steps, and JPEGs are decoded smaller (`least`): a photograph
    of 12 megapixels made 480 wide differed by 0.2 levels on average, 3 at most, from one step, and
    took half the time.
    """
    return image.resize(size, Resampling.BILINEAR, box=box, reducing_gap=3.0)
