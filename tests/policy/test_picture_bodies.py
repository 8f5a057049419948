"""Pictures in JSON: how they may be written, and how what was seen in them is told."""

from __future__ import annotations

import base64

import pytest

from edge.errors import InvalidRequest
from edge.openai.parse import decode
from edge.openai.pictures import PictureBody, picture_answer, picture_bytes, picture_work
from edge.openai.render import Origin
from edge.tensors import Detection, Inferred, Label, PictureWork, Sighting
from edge.types import Energy

PICTURE = bytes(range(256))
TEXT = base64.b64encode(PICTURE).decode()


@pytest.mark.parametrize(
    "text", [TEXT, f"data:image/jpeg;base64,{TEXT}", base64.encodebytes(PICTURE).decode()]
)
def test_a_picture_in_json(text: str) -> None:
    """base64, with broken lines or as a data: URL."""
    assert picture_bytes(text) == PICTURE


@pytest.mark.parametrize(
    "text", ["", "data:image/png;base64,", "not base64!", "http://x/y", "é", "\n"]
)
def test_what_is_no_picture(text: str) -> None:
    """Refused with the field's name; whether it can be decoded is for the model to find out."""
    with pytest.raises(InvalidRequest) as refused:
        picture_bytes(text, "image")
    assert refused.value.param == "image"


def test_the_body() -> None:
    """All that a picture may be looked at with; what is unknown or out of range is refused."""
    raw = f'{{"image": "{TEXT}", "top_k": 2, "threshold": 0.5, "draw": "png"}}'.encode()
    assert picture_work(decode(raw, PictureBody)) == PictureWork(PICTURE, 2, 0.5, "png")
    for wrong in ('"top_k": 0', '"threshold": 2', '"draw": "gif"', '"topk": 1'):
        with pytest.raises(InvalidRequest):
            decode(f'{{"image": "{TEXT}", {wrong}}}'.encode(), PictureBody)


def test_the_answer() -> None:
    """What the model did not look for is not there; an empty list is."""
    labels = Sighting(8, 6, [Label("bolt", 0.75, 3)])
    told = picture_answer(Inferred(labels, "m", 2, 0.5, 1), "7", 99)
    assert told == {
        "id": "sight-7",
        "object": "sighting",
        "created": 99,
        "model": "m",
        "version": 2,
        "width": 8,
        "height": 6,
        "labels": [{"label": "bolt", "score": 0.75, "number": 3}],
        "seconds": 0.5,
        "edge": Origin("local", "m", []),
    }
    measured = Inferred(labels, "m", 2, 0.5, 1, Energy(1.25, {"gpu": 1.0}))
    origin = Origin("local", "m", [], 1.25, {"gpu": 1.0})
    assert picture_answer(measured, "7", 99)["edge"] == origin
    boxes = Sighting(
        8, 6, detections=[Detection("bolt", 0.5, 0, (1.0, 2.0, 3.0, 4.5))], picture=b"P"
    )
    told = picture_answer(Inferred(boxes, "m", 2, 0.5, 1), "7", 99)
    assert told["detections"] == [
        {"label": "bolt", "score": 0.5, "number": 0, "box": (1.0, 2.0, 3.0, 4.5)}
    ]
    assert told["picture"] == base64.b64encode(b"P").decode()
    nothing = Inferred(Sighting(8, 6, detections=[]), "m", 2, 0.5, 1)
    assert picture_answer(nothing, "7", 99)["detections"] == []
