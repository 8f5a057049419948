"""From encoded pictures to what is in them, by models that look at the pixels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import encoded, squares
from PIL import Image
from seeing_models import Looking, color_classifier, squares_detector

from edge.errors import BadModelFile, InvalidRequest
from edge.onnx.pictures import ORIENTATION
from edge.tensors import Detection, PairWork, Sighting

COLORS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def detector() -> Looking:
    return Looking("detect", squares_detector(), format="yolov8", labels=COLORS, threshold=0.9)


@pytest.fixture(scope="module")
def classifier() -> Looking:
    return Looking("classify", color_classifier(), labels=COLORS)


def seen(sighting: Sighting) -> list[tuple[str, tuple[float, ...]]]:
    assert sighting.detections is not None
    return sorted((found.label, found.box) for found in sighting.detections)


SCENE = squares((320, 320), ("red", 64, 32), ("blue", 240, 200), ("lime", 8, 280))
BOXES = [
    ("blue", (240, 200, 272, 232)),
    ("green", (8, 280, 40, 312)),
    ("red", (64, 32, 96, 64)),
]


@pytest.mark.parametrize("form", ["yolov5", "yolov8"])
def test_formats(form: Any) -> None:
    """Each layout of outputs gives the same boxes."""
    looking = Looking("detect", squares_detector(form), format=form, labels=COLORS, threshold=0.9)
    found = looking.see(encoded(SCENE, "PNG"))
    assert (found.width, found.height, found.labels, found.picture) == (320, 320, None, None)
    assert seen(found) == BOXES


def test_a_model_that_takes_overlaps_out_itself() -> None:
    """Its boxes are taken as they are."""
    looking = Looking("detect", squares_detector("end2end"), format="end2end", labels=COLORS)
    scene = squares((320, 320), ("red", 64, 32), ("blue", 224, 192))
    assert seen(looking.see(encoded(scene, "PNG"))) == [
        ("blue", (224, 192, 256, 224)),
        ("red", (64, 32, 96, 64)),
    ]


def test_the_letterbox_is_undone(detector: Looking) -> None:
    """A wide picture of twice the size: boxes are in its own pixels, squares there 64 wide."""
    scene = squares((640, 352), ("red", 128, 0), ("blue", 320, 288), side=64)
    # Half as large it is 320 by 176, and has bars of 72: a multiple of the detector's step.
    assert seen(detector.see(encoded(scene, "PNG"))) == [
        ("blue", (320, 288, 384, 352)),
        ("red", (128, 0, 192, 64)),
    ]


def test_a_tall_picture_that_lies_on_its_side(detector: Looking) -> None:
    """A JPEG that a camera turned, decoded smaller: boxes are in pixels of the upright picture."""
    upright = squares((1408, 2560), ("red", 512, 1024), side=256)
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    held = upright.transpose(Image.Transpose.ROTATE_90)
    found = detector.see(encoded(held, "JPEG", exif=tags, quality=95), threshold=0.8)
    assert (found.width, found.height) == (1408, 2560)
    assert seen(found) == [("red", (512, 1024, 768, 1280))]


def test_thresholds(detector: Looking) -> None:
    """The request's wins over the manifest's; a half covered window is half sure."""
    scene = encoded(squares((320, 320), ("red", 64, 32), side=24), "PNG")
    assert seen(detector.see(scene)) == []
    found = detector.see(scene, threshold=0.5).detections or []
    assert found[0].score == pytest.approx((24 / 32) ** 2, abs=1e-3)


def test_nothing_to_see(detector: Looking) -> None:
    """No detections are an empty list, which is not the same as none asked for."""
    assert detector.see(encoded(squares((50, 50)), "PNG")).detections == []


def test_no_more_than_asked_for() -> None:
    """`most` bounds the list."""
    looking = Looking("detect", squares_detector(), format="yolov8", labels=COLORS, most=2)
    assert len(looking.see(encoded(SCENE, "PNG")).detections or []) == 2


def test_classes_without_names() -> None:
    """They have their numbers."""
    looking = Looking("detect", squares_detector(), format="yolov8", threshold=0.9)
    assert {label for label, _ in seen(looking.see(encoded(SCENE, "PNG")))} == {"0", "1", "2"}


# Classifying


def test_labels(classifier: Looking) -> None:
    """Best first, as many as asked for, with the model's numbers."""
    picture = encoded(Image.new("RGB", (20, 10), (30, 200, 100)), "PNG")
    found = classifier.see(picture)
    assert found.detections is None
    assert [(one.label, one.score, one.number) for one in found.labels or []] == [
        ("green", 200, 1),
        ("blue", 100, 2),
        ("red", 30, 0),
    ]
    assert [one.label for one in classifier.see(picture, top_k=1).labels or []] == ["green"]
    assert len(classifier.see(picture, threshold=0.0).labels or []) == 3


def test_softmax() -> None:
    """Scores of logits are probabilities, also where the logits are large."""
    looking = Looking("classify", color_classifier(), labels=COLORS, softmax=True)
    found = looking.see(encoded(Image.new("RGB", (8, 8), (255, 254, 0)), "PNG")).labels or []
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-5)
    assert sum(one.score for one in found) == pytest.approx(1, abs=1e-5)
    assert [
        one.label for one in looking.see(encoded(SCENE, "PNG"), threshold=0.99).labels or []
    ] == []


# A second look


def test_regions(classifier: Looking) -> None:
    """Each is looked at by itself, and comes back with what was said of it."""
    regions = [
        Detection("part", 0.75, 3, (64, 32, 96, 64)),
        Detection("part", 0.5, 3, (240, 200, 272, 232)),
    ]
    found = classifier.see(encoded(SCENE, "PNG"), regions=regions).detections or []
    assert [(one.text, one.text_score) for one in found] == [("red", 255), ("blue", 255)]
    assert [(one.label, one.score, one.number, one.box) for one in found] == [
        (one.label, one.score, one.number, one.box) for one in regions
    ]


def test_a_region_at_the_edge(classifier: Looking) -> None:
    """What lies outside of the picture is not looked at."""
    region = Detection("part", 0.75, 3, (-500, -500, 8, 900))
    picture = encoded(squares((32, 32), ("blue", 0, 0), side=32), "PNG")
    (found,) = classifier.see(picture, regions=[region]).detections or []
    assert (found.text, found.text_score) == ("blue", 255)


@pytest.mark.parametrize(
    "box", [(400, 0, 500, 10), (10, 10, 10.5, 20), (20, 20, 10, 10), (float("nan"), 0, 9, 9)]
)
def test_a_region_that_is_not_there(classifier: Looking, box: Any) -> None:
    """It is refused by name."""
    with pytest.raises(InvalidRequest) as refusal:
        classifier.see(encoded(SCENE, "PNG"), regions=[Detection("part", 1, 0, box)])
    assert refusal.value.param == "regions"


def test_a_detector_has_no_regions(detector: Looking) -> None:
    """It looks at whole pictures."""
    with pytest.raises(InvalidRequest, match="whole"):
        detector.see(encoded(SCENE, "PNG"), regions=[])


def test_more_regions_than_memory() -> None:
    """A thousand long lines are refused before they are laid out."""
    looking = Looking("classify", color_classifier(2048), labels=COLORS)
    region = Detection("part", 1, 0, (0, 0, 320, 320))
    with pytest.raises(InvalidRequest, match="too many regions"):
        looking.see(encoded(SCENE, "PNG"), regions=[region] * 100)


# Drawing


def pixel(picture: bytes | None, x: int, y: int) -> Any:
    assert picture is not None
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB")).astype(int)[y, x]


@pytest.mark.parametrize(("form", "name"), [("jpeg", "JPEG"), ("png", "PNG")])
def test_boxes_are_drawn(detector: Looking, form: Any, name: str) -> None:
    """In the picture as it came, each class in its colour, on the edge of the box."""
    scene = squares((960, 960), ("red", 192, 96), ("blue", 720, 600), side=96)
    found = detector.see(encoded(scene, "PNG"), draw=form)
    assert found.picture is not None
    drawn = Image.open(BytesIO(found.picture))
    assert (drawn.format, drawn.size) == (name, (960, 960))
    slack = 60 if form == "jpeg" else 0
    for x, y in ((192, 150), (287, 150), (240, 191)):
        assert np.abs(pixel(found.picture, x, y) - (0xE6, 0x9F, 0x00)).max() <= slack
    assert np.abs(pixel(found.picture, 720, 650) - (0x00, 0x9E, 0x73)).max() <= slack
    assert np.abs(pixel(found.picture, 240, 150) - (255, 0, 0)).max() <= slack
    # A caption stands above the box.
    assert pixel(found.picture, 194, 90).sum() > 0


def test_a_drawn_picture_is_upright(detector: Looking) -> None:
    """It carries no tag that would have viewers turn it once more, nor what else the file said."""
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    held = squares((320, 160)).transpose(Image.Transpose.ROTATE_90)
    for form in ("JPEG", "PNG", "TIFF"):
        for draw in ("jpeg", "png"):
            data = encoded(held, form, exif=tags, icc_profile=b"of another colour space")
            found = detector.see(data, draw=draw).picture
            assert found is not None
            drawn = Image.open(BytesIO(found))
            assert drawn.size == (320, 160)
            assert ORIENTATION not in drawn.getexif()
            assert "icc_profile" not in drawn.info


def test_captions_of_any_text(classifier: Looking) -> None:
    """Letters that the font does not have, ends of lines and endless labels are no trouble."""
    looking = Looking("classify", color_classifier(), labels=["日本\n語\x00" * 99, "", "ß"])
    for form in ("jpeg", "png"):
        assert looking.see(encoded(SCENE, "PNG"), draw=form).picture
    assert classifier.see(encoded(Image.new("RGB", (1, 1)), "PNG"), draw="png").picture


# Bad work, bad manifests


@pytest.mark.parametrize(("field", "value"), [("top_k", 0), ("top_k", 2000), ("threshold", 1.5)])
def test_numbers_out_of_range(classifier: Looking, field: str, value: Any) -> None:
    """They are refused by name."""
    with pytest.raises(InvalidRequest) as refusal:
        classifier.see(encoded(SCENE, "PNG"), **{field: value})
    assert refusal.value.param == field


def test_other_work(classifier: Looking) -> None:
    """A model for pictures reads no texts."""
    with pytest.raises(InvalidRequest, match="takes pictures"):
        classifier.task.prepare(PairWork("a", ["b"]), 8)


@pytest.mark.parametrize(
    ("kind", "file", "settings", "message"),
    [
        ("detect", squares_detector(), {}, "picture.format"),
        ("detect", squares_detector(), {"format": "yolov5", "labels": COLORS}, "yolov5 is"),
        ("detect", squares_detector(), {"format": "end2end"}, "end2end is"),
        ("detect", squares_detector(), {"format": "db"}, "db is"),
        ("detect", squares_detector(), {"format": "yolov8", "labels": ["one"]}, "4 \\+ 1|5, N"),
        ("classify", color_classifier(), {"labels": ["one"]}, "3 classes"),
        ("classify", color_classifier(), {"labels": "labels.txt"}, "no file labels.txt"),
        ("classify", color_classifier(), {"labels": "../labels.txt"}, "outside"),
        ("read", color_classifier(), {}, "characters"),
    ],
)
def test_a_manifest_that_does_not_go_with_the_model(
    kind: Any, file: bytes, settings: dict[str, Any], message: str
) -> None:
    """It is told when the model is loaded, not with the first picture."""
    with pytest.raises(BadModelFile, match=message):
        Looking(kind, file, **settings)


def test_labels_from_a_file(tmp_path: Path) -> None:
    """One in a line, however the lines end."""
    (tmp_path / "labels.txt").write_bytes("\ufeffrot\r\ngrün\r\nblau\r\n".encode())
    looking = Looking("classify", color_classifier(), tmp_path, labels="labels.txt")
    found = looking.see(encoded(Image.new("RGB", (8, 8), (0, 9, 0)), "PNG"), top_k=1)
    assert [one.label for one in found.labels or []] == ["grün"]


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    """A manifest reads no files of others."""
    (tmp_path / "secret").write_text("a\nb\nc\n")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "labels.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(BadModelFile, match="outside"):
        Looking("classify", color_classifier(), tmp_path / "m", labels="labels.txt")
