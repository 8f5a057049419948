"""ONNX models of this process with a real worker beside it, for tests of what is before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from daemon_process import SLOWER

from edge.config.doors import Limits
from edge.config.models import Onnx
from edge.inference.models import OnnxModels
from edge.metrics import Metrics
from edge.onnx.elements import NUMPY, to_tensor
from edge.onnx.protocol import Setup
from edge.repository.folder import Repository
from edge.runtime.onnx_runner import OnnxRunner
from edge.tensors import Inference, Inferred, TensorResult, TensorWork, Work

PATIENCE = 60.0 * SLOWER
"""Seconds: far more than anything takes, because the machine may be busy with other things."""

_numbers = count()


@asynccontextmanager
async def serving(
    models: Path,
    *,
    limits: Limits | None = None,
    ttl: float | None = None,
    **settings: Any,
) -> AsyncIterator[OnnxModels]:
    """The model folders of a directory, served. settings: of the section `onnx`."""
    # One thread: two that wait for each other crawl when something else wants a core.
    onnx, metrics = Onnx(**{"threads": 1, "nice": 0, **settings}), Metrics()
    assert onnx.threads != "auto"
    runner = OnnxRunner(Setup(onnx.provider, onnx.threads, onnx.nice), metrics)
    limits = limits or Limits(max_wait_seconds=PATIENCE)
    served = OnnxModels(Repository(models), runner, onnx, limits, ttl, metrics)
    running = asyncio.create_task(served.run())
    try:
        yield served
    finally:
        await served.stop()
        await asyncio.wait_for(running, PATIENCE)


def inference(model: str, work: Work, **fields: Any) -> Inference:
    return Inference(f"test-{next(_numbers)}", model, work, **fields)


def tensors(outputs: tuple[str, ...] = (), /, **arrays: Any) -> TensorWork:
    """Arrays as the work of a model, each of the datatype that numpy has it in; texts as BYTES."""
    inputs = []
    for name, value in arrays.items():
        array = np.asarray(value)
        kinds = [kind for kind, dtype in NUMPY.items() if dtype == array.dtype]
        inputs.append(to_tensor(name, kinds[0] if kinds else "BYTES", array))
    return TensorWork(inputs, list(outputs))


def arrays_of(inferred: Inferred) -> dict[str, Any]:
    """The outputs of a `TensorResult` as numpy arrays, but for texts, which stay bytes."""
    assert isinstance(inferred.result, TensorResult)
    return {
        one.name: one.data
        if one.datatype == "BYTES"
        else np.frombuffer(one.data, NUMPY[one.datatype]).reshape(one.shape)
        for one in inferred.result.outputs
    }
