"""Encoded pictures to upright RGB pixels, and the refusal of everything else."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import encoded, photograph, png, squares
from PIL import Image, ImageFile

from edge.errors import InvalidRequest
from edge.onnx.pictures import MOST_PIXELS, ORIENTATION, Picture, decode

NOISE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (40, 60, 3), dtype=np.uint8))
"""60 wide and 40 high, no two pixels alike."""

SMOOTH = Image.linear_gradient("L").resize((64, 48)).convert("RGB")


def pixels(picture: Picture) -> np.ndarray[Any, Any]:
    return np.asarray(picture.pixels).astype(int)


def refused(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        decode(data)
    assert refusal.value.param == "image"
    return refusal.value.message


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_formats_without_loss(form: str, options: dict[str, Any]) -> None:
    """Every pixel is what it was."""
    found = decode(encoded(NOISE, form, **options))
    assert (found.width, found.height) == (60, 40)
    assert np.array_equal(pixels(found), np.asarray(NOISE))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
def test_jpegs_of_every_color_space(mode: str) -> None:
    """They come out as they look, within what the compression and the conversion cost."""
    found = decode(encoded(SMOOTH.convert(mode), "JPEG", quality=95))
    assert np.abs(pixels(found) - np.asarray(SMOOTH)).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_grey_and_palettes(mode: str, form: str) -> None:
    """They become RGB, as any viewer shows them."""
    image = NOISE.convert(mode)
    assert np.array_equal(pixels(decode(encoded(image, form))), np.asarray(image.convert("RGB")))


def test_sixteen_bits() -> None:
    """The upper eight count, in both orders of bytes."""
    values = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    little = Image.fromarray(values)
    big = Image.frombytes("I;16B", (60, 40), values.astype(">u2").tobytes())
    for data in (encoded(little, "PNG"), encoded(little, "TIFF"), encoded(big, "TIFF")):
        assert np.array_equal(pixels(decode(data))[:, :, 1], values >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white(mode: str) -> None:
    """What nobody sees in a viewer is not seen here either; half transparent is half white."""
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 127))
    found = pixels(decode(encoded(image.convert(mode), "PNG")))[0, :, 0]
    assert found.tolist() == [0, 255, 128]


def test_a_transparent_color() -> None:
    """One entry of a palette, or one colour of a picture without a palette."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 10, 10, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    plain = Image.new("RGB", (2, 1), (10, 10, 10))
    plain.putpixel((1, 0), (200, 0, 0))
    for data in (
        encoded(palette, "PNG", transparency=0),
        encoded(plain, "PNG", transparency=(10, 10, 10)),
    ):
        assert pixels(decode(data)).tolist() == [[[255] * 3, [200, 0, 0]]]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_that_were_held_otherwise(form: str, orientation: int) -> None:
    """The red corner of the scene is at the left top, the green one at the right top."""
    scene = squares((96, 64), ("red", 0, 0), ("lime", 64, 0))
    held = scene
    for turn in {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, []):
        held = held.transpose(turn)
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    found = decode(encoded(held, form, exif=tags))
    assert (found.width, found.height) == found.pixels.size == (96, 64)
    assert np.abs(pixels(found)[16, 16] - (255, 0, 0)).max() < 16
    assert np.abs(pixels(found)[16, 80] - (0, 255, 0)).max() < 16


def test_the_preview_in_a_cameras_jpeg() -> None:
    """A second picture in the file is left alone."""
    data = encoded(SMOOTH, "MPO", save_all=True, append_images=[SMOOTH.resize((8, 8))])
    assert decode(data).pixels.size == (64, 48)


def test_a_large_jpeg_is_decoded_smaller() -> None:
    """Where less is enough. It says how large it was, and shows the same."""
    large = SMOOTH.resize((1600, 1200))
    found = decode(
        encoded(large, "JPEG", quality=95), lambda width, height: (width // 8, height // 8)
    )
    assert (found.width, found.height) == (1600, 1200)
    assert found.pixels.size == (400, 300)
    assert np.abs(pixels(found) - np.asarray(large.resize((400, 300)))).max() <= 4


def test_a_large_jpeg_that_lies_on_its_side() -> None:
    """What is enough is asked for the upright picture."""
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    asked: list[tuple[int, int]] = []

    def least(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return width // 8, height // 8

    found = decode(encoded(SMOOTH.resize((1600, 1200)), "JPEG", exif=tags), least)
    assert asked == [(1200, 1600)]
    assert (found.width, found.height, *found.pixels.size) == (1200, 1600, 300, 400)


def test_a_png_is_decoded_as_it_is() -> None:
    """Only JPEGs can be decoded smaller."""
    assert decode(encoded(NOISE, "PNG"), lambda *_: (1, 1)).pixels.size == (60, 40)


# What is refused


def test_nothing() -> None:
    """An empty body is told from a broken one."""
    assert refused(b"") == "the picture is empty"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"a picture",
        b'{"image": "?"}',
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%PDF-1.7\n" + encoded(SMOOTH, "JPEG"),
        b"PK\x03\x04" + encoded(SMOOTH, "PNG"),
        encoded(SMOOTH, "GIF"),
        encoded(SMOOTH, "ICO"),
        encoded(SMOOTH, "PPM"),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\x04\x00\x00\x00WEBP",
        b"II*\x00",
        b"BM",
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    """It is refused by what its first bytes say, and no other decoder is tried."""
    assert "no picture of a known format" in refused(data)


def test_a_picture_in_front_of_something_else() -> None:
    """Whatever hangs behind the picture is not looked at."""
    data = encoded(NOISE, "PNG") + b"PK\x03\x04<script>" * 100
    assert np.array_equal(pixels(decode(data)), np.asarray(NOISE))


def test_megabytes_of_noise() -> None:
    """With and without a head that looks like a picture's."""
    noise = random.Random(1).randbytes(8 << 20)
    assert "no picture" in refused(noise)
    refused(encoded(NOISE, "PNG")[:60] + noise)
    refused(encoded(NOISE, "JPEG")[:300] + noise)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_picture_that_was_cut_off(form: str) -> None:
    """Half a picture is no answer to what is in it."""
    data = encoded(NOISE.resize((600, 400)), form)
    for part in (0.5, 0.9):
        assert "picture" in refused(data[: int(len(data) * part)])


def test_a_truncated_jpeg_is_called_so() -> None:
    """The camera's link broke: that is what the message says."""
    data = photograph()
    assert "truncated" in refused(data[: len(data) // 2])
    assert "truncated" in refused(data[:-2])


@pytest.mark.parametrize(
    "image",
    [
        encoded(SMOOTH, "WEBP", save_all=True, append_images=[NOISE.resize((64, 48))]),
        encoded(SMOOTH, "PNG", save_all=True, append_images=[NOISE.resize((64, 48))]),
        encoded(SMOOTH, "TIFF", save_all=True, append_images=[NOISE.resize((64, 48))]),
    ],
    ids=["webp", "png", "tiff"],
)
def test_several_pictures_in_one(image: bytes) -> None:
    """Which of them is meant is for the caller to say."""
    assert "animated or has several pages" in refused(image)


@pytest.mark.parametrize("packing", ["group4", "jpeg"])
def test_packings_that_are_not_taken(packing: str) -> None:
    """Whose decoders write about errors without end."""
    image = Image.new("1" if packing == "group4" else "RGB", (64, 64))
    assert "packed as" in refused(encoded(image, "TIFF", compression=packing))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_measurements_are_no_picture(kind: Any) -> None:
    """Nobody knows which of their values are black and white."""
    image = Image.fromarray(np.zeros((4, 4), kind))
    assert "32 bits" in refused(encoded(image, "TIFF"))


def header_only(form: str, width: int, height: int) -> bytes:
    if form == "png":
        return png(width, height)
    if form == "png, one bit":
        return png(width, height, bytes((width // 8 + 1) * 64), depth=1, color=0)
    if form == "bmp":
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 1, 1, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head
    if form == "jpeg":
        data = bytearray(encoded(SMOOTH, "JPEG"))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
        return bytes(data)
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, width * height % 2**32)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("form", "width", "height"),
    [
        ("png", 50_000, 50_000),
        ("png", 2**31 - 1, 2**31 - 1),
        ("png, one bit", 50_000, 50_000),
        ("png", MOST_PIXELS + 1, 1),
        ("bmp", 50_000, 50_000),
        ("jpeg", 65_500, 65_500),
        ("tiff", 50_000, 50_000),
    ],
)
def test_a_bomb_is_refused_by_its_header(
    form: str, width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes that claim gigabytes: nothing of them is decoded."""

    def explode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    data = header_only(form, width, height)
    assert len(data) < 500_000
    assert f"{width} x {height} pixels" in refused(data)


def test_as_many_pixels_as_allowed() -> None:
    """One row of them is a picture."""
    assert decode(png(10_000, 1, bytes(30_001))).pixels.size == (10_000, 1)


@settings(max_examples=300)
@given(
    form=st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP"]),
    places=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    keep=st.integers(0, 6000),
)
def test_damaged_files(form: str, places: list[tuple[int, int]], keep: int) -> None:
    """Whatever became of a file: a picture within bounds, or a refusal, and no other error."""
    data = bytearray(DAMAGED[form][:keep])
    for place, value in places:
        if data:
            data[place % len(data)] = value
    try:
        found = decode(bytes(data))
    except InvalidRequest:
        return
    assert found.pixels.mode == "RGB"
    assert found.width * found.height <= MOST_PIXELS


DAMAGED = {
    form: encoded(NOISE.resize((37, 29)), form, exif=Image.Exif())
    for form in ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
}
