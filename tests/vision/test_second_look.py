"""Pictures through the real worker: shared batches, and a second model that looks at what the
first one found."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from onnx_models import adder, install
from onnx_serving import inference, serving
from photographs import encoded, squares
from PIL import Image
from seeing_models import color_classifier, squares_detector

from edge.errors import BadModelFile, EdgeError, InvalidRequest, ModelNotFound
from edge.inference import stages
from edge.tensors import PictureWork, Sighting, TensorWork

SCENE = squares((320, 320), ("red", 64, 32), ("blue", 240, 200))

DETECTOR = """
task: detect
picture: {format: yolov8, threshold: 0.9, labels: [a, b, c]}
"""

CLASSIFIER = """
task: classify
picture: {labels: [red, green, blue]}
"""


def installed(models: Path, then: str = "colors") -> Path:
    install(models, "squares", squares_detector(), manifest=DETECTOR)
    install(models, "colors", color_classifier(), manifest=CLASSIFIER)
    looked = DETECTOR.replace("]}", f"], then: {then}}}")
    install(models, "parts", squares_detector(), manifest=looked)
    install(models, "sums", adder())
    return models


async def seen(
    models: Path, model: str, scene: Image.Image = SCENE, draw: Literal["png"] | None = None
) -> Sighting:
    async with serving(models) as served:
        picture = PictureWork(encoded(scene, "PNG"), draw=draw)
        found = await stages.infer(served, inference(model, picture))
    assert found.model == model
    assert isinstance(found.result, Sighting)
    return found.result


async def refused(models: Path, model: str, work: PictureWork | TensorWork) -> EdgeError:
    async with serving(models) as served:
        with pytest.raises(EdgeError) as refusal:
            await stages.infer(served, inference(model, work))
    return refusal.value


async def test_one_look(tmp_path: Path) -> None:
    """Without `then` the boxes have no texts."""
    found = (await seen(installed(tmp_path), "squares")).detections or []
    assert [(one.label, one.text) for one in found] == [("a", None), ("c", None)]


async def test_a_second_look(tmp_path: Path) -> None:
    """Boxes of the first model, with what the second says of each."""
    found = await seen(installed(tmp_path), "parts")
    assert [(one.label, one.text, one.text_score) for one in found.detections or []] == [
        ("a", "red", 255),
        ("c", "blue", 255),
    ]
    assert (found.width, found.height, found.picture) == (320, 320, None)


async def test_it_is_drawn_once(tmp_path: Path) -> None:
    """By the second model, which knows the texts; or where there is nothing, as the picture is."""
    models = installed(tmp_path)
    assert (await seen(models, "parts", draw="png")).picture
    nothing = await seen(models, "parts", squares((320, 320)), draw="png")
    assert nothing.detections == []
    assert nothing.picture


async def test_requests_share_batches(tmp_path: Path) -> None:
    """Pictures of many clients at once, each of which gets its own answer."""
    manifest = DETECTOR + "batch: {max: 8, delay_ms: 50}"
    install(tmp_path, "squares", squares_detector(size=96), manifest=manifest)
    async with serving(tmp_path) as served:

        async def ask(number: int) -> int:
            scene = squares((96, 96), ("red", 8 * number, 8 * number))
            work = PictureWork(encoded(scene, "PNG"))
            found = await stages.infer(served, inference("squares", work))
            assert isinstance(found.result, Sighting)
            (one,) = found.result.detections or []
            assert one.box[0] == 8 * number
            return found.rows

        rows = await asyncio.gather(*(ask(number % 9) for number in range(24)))
    assert max(rows) > 1


@pytest.mark.parametrize("then", ["nobody", "sums", "squares"])
async def test_a_second_model_that_cannot_look(tmp_path: Path, then: str) -> None:
    """It is the manifest that is wrong, not the request: both names are told."""
    models = installed(tmp_path, then)
    found = await refused(models, "parts", PictureWork(encoded(SCENE, "PNG")))
    assert isinstance(found, BadModelFile)
    assert "parts" in found.message
    assert then in found.message


async def test_requests_that_are_wrong(tmp_path: Path) -> None:
    """They are told what is wrong with them, whatever comes after."""
    models = installed(tmp_path)
    picture = PictureWork(encoded(SCENE, "PNG"))
    assert isinstance(await refused(models, "nobody", picture), ModelNotFound)
    assert isinstance(await refused(models, "sums", picture), InvalidRequest)
    assert isinstance(await refused(models, "parts", TensorWork([])), InvalidRequest)
    broken = await refused(models, "parts", PictureWork(b"GIF89a"))
    assert isinstance(broken, InvalidRequest)
    assert broken.param == "image"
