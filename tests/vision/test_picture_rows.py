"""Where a picture goes in a model's input, and the numbers that stand there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge.errors import BadModelFile
from edge.onnx import placing
from edge.onnx.pictures import Picture
from edge.onnx.preprocess import Preprocessor
from edge.repository.picture import PictureSettings
from edge.tensors import TensorFacts

SIDES = st.integers(1, 5000)


def test_letterbox() -> None:
    """All of the picture in the middle, in its proportions."""
    found = placing.letterbox((1280, 720), (640, 640))
    assert found.inner == (640, 360)
    assert found.at == (0, 140)
    assert found.scale == (0.5, 0.5)
    assert found.origin == (0, 140)


def test_letterbox_with_an_odd_bar() -> None:
    """The odd pixel is at the bottom, where training had it."""
    assert placing.letterbox((100, 99), (100, 100)).at == (0, 0)
    assert placing.letterbox((100, 97), (100, 100)).at == (0, 1)


def test_crop() -> None:
    """As torchvision does it: the shorter side to 256, and 224 of the middle."""
    found = placing.crop((512, 256), (224, 224), 224 / 256)
    assert found.shown == pytest.approx((144, 16, 368, 240))
    assert found.scale == pytest.approx((1, 1))


def test_fit() -> None:
    """Both sides in steps of 32, never beyond the size."""
    assert placing.fit((900, 500), (960, 960), 32).inner == (960, 544)
    assert placing.fit((900, 1), (960, 960), 32).inner == (960, 32)
    assert placing.fit((10, 10), (1000, 1000), 32).inner == (992, 992)


def test_lines() -> None:
    """Short ones get a bar, long ones a wider input in steps, very long ones are squeezed."""
    assert placing.line((100, 48), (320, 48), 3200, 64).inner == (100, 48)
    assert placing.line((100, 48), (320, 48), 3200, 64).canvas == (320, 48)
    assert placing.line((400, 48), (320, 48), 3200, 64).canvas == (448, 48)
    assert placing.line((9000, 48), (320, 48), 3200, 64).inner == (3200, 48)
    assert placing.line((400, 48), (192, 48), 192, 64).inner == (192, 48)


@given(SIDES, SIDES, st.sampled_from(["stretch", "crop", "letterbox", "fit", "line"]))
def test_corners_come_to_lie_where_they_are_said_to(width: int, height: int, how: str) -> None:
    """What is shown of any picture spans exactly the inner rectangle, which is on the canvas."""
    found = {
        "stretch": lambda size: placing.stretch(size, (320, 160)),
        "crop": lambda size: placing.crop(size, (320, 160), 0.875),
        "letterbox": lambda size: placing.letterbox(size, (320, 160)),
        "fit": lambda size: placing.fit(size, (320, 160), 32),
        "line": lambda size: placing.line(size, (320, 48), 640, 64),
    }[how]((width, height))
    (x, y), (left, top) = found.scale, found.origin
    for corner, behind in ((0, found.at), (2, np.add(found.at, found.inner))):
        across, down = found.shown[corner : corner + 2]
        assert (left + across * x, top + down * y) == pytest.approx(tuple(behind), abs=1e-6)
    assert 0 <= found.at[0] <= found.at[0] + found.inner[0] <= found.canvas[0]
    assert 0 <= found.at[1] <= found.at[1] + found.inner[1] <= found.canvas[1]


# Numbers

COLORS = Image.fromarray(np.random.default_rng(3).integers(0, 256, (4, 6, 3), dtype=np.uint8))


def preprocessor(
    shape: list[int], datatype: Any = "FP32", resize: Any = "stretch", **block: Any
) -> Preprocessor:
    return Preprocessor(PictureSettings(**block), [TensorFacts("x", datatype, shape)], resize, None)


def row(made: Preprocessor, image: Image.Image = COLORS) -> np.ndarray[Any, Any]:
    return made.row(Picture(image, image.width, image.height), made.place(image.size))


def test_pixels_become_numbers() -> None:
    """(pixel · scale - mean) / std by channel, written out pixel by pixel."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = row(preprocessor([-1, 3, 4, 6], mean=mean, std=std))
    assert (found.shape, found.dtype) == ((1, 3, 4, 6), np.float32)
    for y in range(4):
        for x in range(6):
            for c in range(3):
                pixel = COLORS.getpixel((x, y))
                assert isinstance(pixel, tuple)
                wanted = (pixel[c] / 255 - mean[c]) / std[c]
                assert found[0, c, y, x] == pytest.approx(wanted, abs=1e-6)


def test_layouts_and_colors() -> None:
    """Channels first or last, as the model's input has them; in either order; or none."""
    first = row(preprocessor([-1, 3, 4, 6]))
    last = row(preprocessor([-1, 4, 6, 3]))
    assert np.array_equal(first.transpose(0, 2, 3, 1), last)
    free = row(preprocessor([-1, -1, -1, -1], size=(4, 6), layout="nhwc"))
    assert np.array_equal(free, last)
    assert np.array_equal(row(preprocessor([-1, 3, 4, 6], color="bgr")), first[:, ::-1])
    grey = row(preprocessor([-1, 1, 4, 6], color="gray", scale=1))
    assert np.array_equal(grey[0, 0], np.asarray(COLORS.convert("L")))


def test_datatypes() -> None:
    """Half precision is rounded once, at the end; bytes stay what they are."""
    whole = row(preprocessor([-1, 3, 4, 6], mean=[0.5], std=[0.25]))
    half = row(preprocessor([-1, 3, 4, 6], "FP16", mean=[0.5], std=[0.25]))
    assert half.dtype == np.float16
    assert np.array_equal(half, whole.astype(np.float16))
    raw = row(preprocessor([-1, 4, 6, 3], "UINT8"))
    assert raw.dtype == np.uint8
    assert np.array_equal(raw[0], np.asarray(COLORS))
    raw = row(preprocessor([-1, 3, 4, 6], "UINT8", color="bgr"))
    assert np.array_equal(raw[0], np.asarray(COLORS).transpose(2, 0, 1)[::-1])


def test_bars() -> None:
    """What is beside the picture has the usual grey, or the one that the manifest says."""
    found = row(preprocessor([-1, 3, 12, 12], scale=1, resize="letterbox"))
    assert (found[0, :, :2] == 114).all()
    assert (found[0, :, -2:] == 114).all()
    assert not (found[0, :, 2:-2] == 114).all()
    found = row(preprocessor([-1, 3, 12, 12], scale=1, resize="letterbox", fill=0))
    assert (found[0, :, :2] == 0).all()
    found = row(preprocessor([-1, 3, 4, 12], scale=1, resize="line"))
    assert np.array_equal(found[0, :, :, :6], np.asarray(COLORS).transpose(2, 0, 1))
    assert (found[0, :, :, 6:] == 127).all()


def test_a_picture_that_was_decoded_smaller() -> None:
    """It shows the same, also where only its middle is shown."""
    image = Image.linear_gradient("L").convert("RGB")
    for how in ("stretch", "crop"):
        made = preprocessor([-1, 3, 8, 4], resize=how)
        found = made.row(Picture(image.resize((64, 64)), 256, 256), made.place((256, 256)))
        assert np.abs(found - row(made, image)).max() < 0.02


def test_a_line_of_one_pixel() -> None:
    """Nothing becomes zero pixels wide."""
    for size in ((1, 3000), (3000, 1), (1, 1)):
        for how in ("stretch", "crop", "letterbox", "line"):
            found = row(preprocessor([-1, 3, 8, 8], resize=how), Image.new("RGB", size, "red"))
            assert found.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "datatype", "block", "message"),
    [
        ([-1, 384], "INT64", {}, "four dimensions"),
        ([-1, 3, 8, 8], "INT64", {}, "INT64"),
        ([-1, 3, -1, -1], "FP32", {}, "picture.size"),
        ([-1, 3, 8, 8], "FP32", {"size": (16, 8)}, "8 high"),
        ([-1, 3, 8, 8], "FP32", {"size": (8, 16)}, "8 wide"),
        ([-1, 3, 8, 8], "FP32", {"color": "gray"}, "no 1 channels"),
        ([-1, 3, 8, 8], "FP32", {"layout": "nhwc"}, "no 3 channels"),
        ([-1, 3, 8, 8], "FP32", {"resize": "fit"}, "free"),
        ([-1, 3, -1, -1], "FP32", {"resize": "fit", "size": (16, 16)}, "multiple"),
        ([-1, 3, 8, 8], "UINT8", {"mean": [0.5]}, "as they are"),
    ],
)
def test_a_manifest_that_does_not_go_with_the_model(
    shape: list[int], datatype: str, block: dict[str, Any], message: str
) -> None:
    """It is told at once, by the name of the key or of the input."""
    with pytest.raises(BadModelFile, match=message):
        preprocessor(shape, datatype, **block)


def test_a_model_with_several_inputs() -> None:
    """Which of them takes the picture nobody can know."""
    inputs = [TensorFacts(name, "FP32", [-1, 3, 8, 8]) for name in ("left", "right")]
    with pytest.raises(BadModelFile, match="left, right"):
        Preprocessor(PictureSettings(), inputs, "stretch", None)
