"""Which of onnxruntime's execution providers compute a model, and whether they really do."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge.errors import ModelLoadFailed
from edge.onnx.protocol import Provider
from edge.repository.triton import Device

logger = logging.getLogger("edge.onnx")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

FASTEST_FIRST = (TENSORRT, CUDA, CPU)

NAMED = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

SHORT = {full: short for short, full in NAMED.items()}


def wanted(asked: Provider, device: Device, there: Sequence[str]) -> list[str]:
    """Those to load a model with, best first; the CPU's takes what others cannot compute.

    device: what the model's own configuration asks for. there: what this onnxruntime was built
    with. Raises `ModelLoadFailed` where the one that is named in the configuration is missing.
    """
    if asked != "auto" and NAMED[asked] not in there:
        raise ModelLoadFailed(
            f"onnx.provider is {asked}, and this onnxruntime has only {', '.join(there)}",
            hint=f"install an onnxruntime with {NAMED[asked]}, or set onnx.provider to auto",
        )
    if device == "cpu" or asked == "cpu":
        return [CPU]
    first = FASTEST_FIRST if asked == "auto" else (NAMED[asked],)
    return [*(one for one in first if one in there and one != CPU), CPU]


def used(name: str, asked: Provider, hoped: Sequence[str], real: Sequence[str]) -> str:
    """The short name of the provider that computes a session, said in the log where it is not the
    one that was hoped for.

    Raises `ModelLoadFailed` where that one was named in the configuration.
    """
    if real[0] != hoped[0]:
        missing = f"{name}: {hoped[0]} did not start, so that {real[0]} computes it"
        if asked != "auto":
            raise ModelLoadFailed(missing, hint="onnxruntime's own lines in the log say why")
        logger.warning("%s: far slower than it could be", missing)
    return SHORT.get(real[0], real[0])
