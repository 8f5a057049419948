"""A second look: what a detector found is shown to the model that its manifest names (`then`).

    picture ─► detector ─► boxes ─► reader or classifier, of the same picture ─► boxes with texts

Two requests to two models, each with its own place in line. The picture is decoded by the worker
for each of them, so that no pixels travel.
"""

from __future__ import annotations

import msgspec

from edge.errors import BadModelFile, EdgeError, ModelNotFound
from edge.inference.models import OnnxModels
from edge.tensors import Inference, Inferred, PictureWork, Sighting

SECOND_TASKS = ("classify", "read")


async def infer(models: OnnxModels, inference: Inference) -> Inferred:
    """Computed by one model, or by two. Raises `EdgeError`."""
    work = inference.work
    second = _second(models, inference.model) if isinstance(work, PictureWork) else None
    if second is None or not isinstance(work, PictureWork) or work.regions is not None:
        return await models.infer(inference)
    plain = PictureWork(work.data, work.top_k, work.threshold)
    first = await models.infer(msgspec.structs.replace(inference, work=plain))
    assert isinstance(first.result, Sighting)
    found = first.result.detections or []
    if not found and work.draw is None:
        return first
    looking = PictureWork(work.data, draw=work.draw, regions=found)
    again = msgspec.structs.replace(
        inference, id=f"{inference.id}-then", model=second, version=None, work=looking
    )
    try:
        seen = await models.infer(again)
    except ModelNotFound as error:
        raise _fault(inference.model, second, error.message) from None
    return Inferred(
        seen.result,
        first.model,
        first.version,
        first.seconds + seen.seconds,
        first.rows + seen.rows,
        first.energy.plus(seen.energy),
    )


def _second(models: OnnxModels, name: str) -> str | None:
    """The model that looks at what this one found. Raises `BadModelFile` where it cannot."""
    try:
        picture = models.folder(name).manifest.picture
    except EdgeError:
        return None  # which the request itself will be told
    if picture is None or picture.then is None:
        return None
    task = models.task_of(picture.then)
    if task not in SECOND_TASKS:
        what = "is not installed, or has a fault" if task is None else f"is for {task}"
        raise _fault(name, picture.then, f"it {what}")
    return picture.then


def _fault(name: str, second: str, what: str) -> BadModelFile:
    return BadModelFile(
        f"{name}: its model.yaml has `{second}` look at what it finds (picture.then): {what}",
        hint=f"`then` names an installed model for {' or '.join(SECOND_TASKS)}",
    )
