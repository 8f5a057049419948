"""What outlives a death of the ONNX worker: inferences that were not answered, and the models that
are to be loaded. Owned by the `OnnxRunner`.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from edge.onnx.protocol import Computed, ModelSpec
from edge.tensors import Inference, OnnxFacts
from edge.types import Energy


class Live:
    """An inference between `submit` and its answer, which ends with an `EdgeError` or `Computed`.

    stage: None until the worker has begun with it. energy: what it took, known with its answer.
    """

    def __init__(self, number: str, key: str, inference: Inference) -> None:
        self.number = number
        self.key = key
        self.inference = inference
        self.answer: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        self.submitted = False
        self.stage: Literal["preparing", "waiting", "computing"] | None = None
        self.deaths = 0
        self.energy = Energy()


class Held:
    """A model that is to be in the worker. came: its facts, once it was loaded for the first time.
    since: when it began to load, by the monotonic clock."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.state: Literal["waiting", "loading", "loaded"] = "waiting"
        self.since = 0.0
        self.deaths = 0
        self.came: asyncio.Future[OnnxFacts] = asyncio.get_running_loop().create_future()
