"""Models that read texts without answering them: which one a request means, and who computes it.

They are of two kinds, folders with an ONNX model and GGUF files that embed. A file wins over a
folder of its name, as in all of /v1.
"""

from __future__ import annotations

from typing import Literal

from edge.embedders import Embedders
from edge.errors import InvalidRequest, ModelNotFound
from edge.inference.models import OnnxModels
from edge.tensors import Inference, Inferred, TextWork

Task = Literal["embed", "rerank"]

DOES = {"embed": "makes vectors of texts", "rerank": "ranks documents"}

PULL = "all-minilm-l6-v2"
"""One that embeds, and that the catalog has."""


class TextModels:
    """embedding: what the configuration names for requests that name no model."""

    def __init__(self, embedders: Embedders, onnx: OnnxModels, embedding: str | None) -> None:
        self._embedders = embedders
        self._onnx = onnx
        self._named = {"embed": embedding, "rerank": None}

    async def names(self, task: Task) -> list[str]:
        """All that are installed for it."""
        files = await self._embedders.names() if task == "embed" else []
        folders = [name for name in self._onnx.names() if self._onnx.task_of(name) == task]
        return list(dict.fromkeys([*files, *folders]))

    def is_file(self, name: str) -> bool:
        """Whether a GGUF file answers under this name."""
        return self._embedders.has(name)

    async def choose(self, task: Task, asked: str | None) -> str:
        """The model that a request means: the one it names, the configuration's, or the only one.

        Raises `ModelNotFound`, and `InvalidRequest` where it is for something else, or nobody has
        said which of several.
        """
        name = asked if asked not in (None, "default") else self._named[task]
        if name is None:
            return await self._only_one(task)
        if self._embedders.has(name):
            if task == "embed":
                return name  # which tells itself if it does not embed
            raise InvalidRequest(f"{name} does not rank documents", param="model")
        # A folder with a fault has no task to be told; who loads it tells what is wrong.
        found = self._onnx.task_of(name)
        if found is None and name not in self._onnx.names():
            raise ModelNotFound(
                f"the model `{name}` is not installed",
                param="model",
                hint=f"edge models pull {name}" if name == PULL else "edge models list",
            )
        if found not in (None, task):
            raise InvalidRequest(
                f"{name} is installed for the task {found}, and not one that {DOES[task]}",
                param="model",
                hint=f"its model.yaml says so; here it would have to be `task: {task}`",
            )
        return name

    async def infer(self, inference: Inference) -> Inferred:
        """Raises an `EdgeError`; cancelling it ends the work."""
        if isinstance(inference.work, TextWork) and self._embedders.has(inference.model):
            return await self._embedders.infer(inference)
        return await self._onnx.infer(inference)

    async def _only_one(self, task: Task) -> str:
        names = await self.names(task)
        if len(names) == 1:
            return names[0]
        if names:
            hint = f"models.embedding may name one: {', '.join(names)}"
            if task != "embed":
                hint = f"name one of {', '.join(names)}"
            raise InvalidRequest(
                f"`model` is missing, and {len(names)} are installed of which each {DOES[task]}",
                param="model",
                hint=hint,
            )
        raise ModelNotFound(
            f"no model is installed that {DOES[task]}",
            param="model",
            hint=f"edge models pull {PULL}" if task == "embed" else "docs/onnx.md tells how",
        )
