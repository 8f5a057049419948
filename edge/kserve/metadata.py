"""What the protocol tells of the server and of models."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.errors import EdgeError
from edge.tensors import OnnxFacts, TensorFacts

PLATFORM = "onnxruntime_onnx"
"""As Triton names it."""

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository(index)",
    "parameters",
    "schedule_policy",
]


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(msgspec.Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]


READY, UNAVAILABLE = "READY", "UNAVAILABLE"


class IndexEntry(msgspec.Struct):
    """A version of a model. reason: why it is unavailable."""

    name: str
    version: str
    state: str
    reason: str


def server_metadata(version: str) -> ServerMetadata:
    return ServerMetadata("edge", version, EXTENSIONS)


def model_metadata(facts: OnnxFacts, versions: list[int]) -> ModelMetadata:
    """versions: that can be asked for."""
    names = [str(version) for version in sorted(versions)]
    return ModelMetadata(facts.name, names, PLATFORM, facts.inputs, facts.outputs)


def model_config(facts: OnnxFacts) -> dict[str, Any]:
    """The part of Triton's model configuration that describes what is served here.

    As there, `dims` leave out the dimension of batches.
    """
    return {
        "name": facts.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": facts.max_batch,
        "input": [_config_tensor(one, facts.max_batch) for one in facts.inputs],
        "output": [_config_tensor(one, facts.max_batch) for one in facts.outputs],
    }


def index_entry(name: str, version: int | None, problem: EdgeError | None) -> IndexEntry:
    """version: None where a fault hides which there are."""
    told = "" if version is None else str(version)
    if problem is None:
        return IndexEntry(name, told, READY, "")
    return IndexEntry(name, told, UNAVAILABLE, problem.message)


def _config_tensor(tensor: TensorFacts, max_batch: int) -> dict[str, Any]:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    dims = tensor.shape[1:] if max_batch else tensor.shape
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": dims}
