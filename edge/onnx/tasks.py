"""Which task serves a model, by its manifest. Each brings its libraries only where it is wanted."""

from __future__ import annotations

from edge.onnx.task import Model, Task
from edge.onnx.tensor_task import TensorTask
from edge.repository.manifest import Manifest
from edge.repository.picture import PictureSettings
from edge.repository.text import TextSettings


def make_task(manifest: Manifest, model: Model) -> Task:
    """Raises `BadModelFile` where the model is not one for its task."""
    if manifest.task == "tensors":
        return TensorTask(model)
    if manifest.task in ("classify", "detect", "read"):
        from edge.onnx.picture_task import PictureTask

        return PictureTask(manifest.task, manifest.picture or PictureSettings(), model)
    if manifest.task == "embed":
        from edge.onnx.text_task import TextTask

        return TextTask(manifest.text or TextSettings(), model)
    assert manifest.task == "rerank"
    from edge.onnx.pair_task import PairTask

    return PairTask(manifest.text or TextSettings(), model)
