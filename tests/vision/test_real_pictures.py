"""Real models on real pictures, against what their own tools say of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import OCR, fetched
from photographs import FACES, PLATE_TEXTS, encoded, photograph, plate
from PIL import Image
from seeing_models import Looking
from test_picture_boxes import overlap

FACE = (168, 138, 356, 345)
"""By nudenet 3.4.2 itself, which puts the bars of the letterbox elsewhere: with a score of 0.61."""

LINES = [
    (37, 47, 251, 93),
    (58, 164, 331, 196),
    (57, 242, 245, 273),
    (494, 241, 564, 288),
    (58, 333, 287, 357),
]
"""By rapidocr 3.10.0 itself, the edges of its boxes, which may be a little crooked."""

USUAL: dict[str, Any] = {"color": "bgr", "mean": [0.5], "std": [0.5]}
"""What PaddleOCR's models are trained with."""


@pytest.fixture(scope="module")
def finder() -> Looking:
    file = fetched(OCR, "det_small.onnx")
    return Looking("detect", file, format="db", size=(960, 960), **USUAL)


@pytest.fixture(scope="module")
def reader() -> Looking:
    return Looking("read", fetched(OCR, "rec_small.onnx"), size=(48, 320), **USUAL)


def test_a_face() -> None:
    """YOLOv8 finds the face in a photograph; labels and size are those of the model file."""
    looking = Looking("detect", fetched(FACES, "320n.onnx"), format="yolov8")
    found = looking.see(photograph())
    assert (found.width, found.height) == (512, 600)
    (face,) = found.detections or []
    assert face.label == "FACE_FEMALE"
    assert face.score > 0.6
    assert overlap(np.array(face.box), np.array(FACE)) > 0.9


def test_where_text_is(finder: Looking) -> None:
    """A box for every text, in the order of reading, where the models' own tool has it."""
    found = finder.see(encoded(plate(), "PNG")).detections or []
    assert [one.label for one in found] == ["text"] * 5
    for one, wanted in zip(found, LINES, strict=True):
        assert one.box == pytest.approx(wanted, abs=4)


def test_what_it_says(finder: Looking, reader: Looking) -> None:
    """Lines of many lengths, read together, in a JPEG as cameras make it."""
    data = encoded(plate(), "JPEG", quality=85)
    regions = finder.see(data).detections
    found = reader.see(data, regions=regions).detections or []
    assert [one.text for one in found][:4] == PLATE_TEXTS[:4]
    # Whether there is a space between date and time, the model's own tool is not sure either.
    assert (found[4].text or "").replace(" ", "") == PLATE_TEXTS[4].replace(" ", "")
    assert all(one.text_score and one.text_score > 0.9 for one in found)


def test_one_line(reader: Looking) -> None:
    """Without regions the picture is the line."""
    line = plate().crop((50, 155, 340, 205))
    (found,) = reader.see(encoded(line, "PNG")).labels or []
    assert (found.label, found.number) == ("Serial No. A4711-B", None)


def test_an_empty_line(reader: Looking) -> None:
    """There is nothing to read on a white wall, and nothing is read."""
    assert reader.see(encoded(Image.new("RGB", (300, 48), "white"), "PNG")).labels == []


def test_a_lines_company_changes_nothing(reader: Looking, finder: Looking) -> None:
    """Read alone or among others, its score is the same to the last digit but one."""
    data = encoded(plate(), "PNG")
    regions = finder.see(data).detections or []
    together = reader.see(data, regions=regions).detections or []
    for region, one in zip(regions, together, strict=True):
        (alone,) = reader.see(data, regions=[region]).detections or []
        assert alone.text == one.text
        assert alone.text_score == pytest.approx(one.text_score, abs=1e-5)


def test_which_way_up() -> None:
    """A classifier for lines, whose input is wider than most of them."""
    looking = Looking(
        "classify",
        fetched(OCR, "cls_mobile.onnx"),
        size=(48, 192),
        resize="line",
        labels=["0", "180"],
        **USUAL,
    )
    line = plate().crop((50, 155, 340, 205))
    for turned, wanted in ((line, "0"), (line.rotate(180), "180")):
        found = looking.see(encoded(turned, "PNG"), top_k=1).labels or []
        assert [one.label for one in found] == [wanted]
        assert found[0].score > 0.9
