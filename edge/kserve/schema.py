"""The JSON that callers send, as the Open Inference Protocol and Triton's extensions have it.

A field that is unknown, of the wrong type or out of range is refused by its place. `parameters` are
open by the protocol: those that are known are here, all others mean nothing to an ONNX model.
Sources: https://github.com/kserve/open-inference-protocol (inference_rest.md) and
https://github.com/triton-inference-server/server (docs/protocol/extension_*.md).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge.tensors import Datatype
from edge.types import Priority

MOST_DIMENSIONS = 64
"""numpy's, which the tensors become in the end."""

MOST_TENSORS = 1024

Name = Annotated[str, Meta(min_length=1, max_length=1024)]
Id = Annotated[str, Meta(max_length=1024)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Shape = Annotated[list[Count], Meta(max_length=MOST_DIMENSIONS)]


class Closed(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of the objects that have these fields and no others."""


class InputParameters(msgspec.Struct, kw_only=True):
    """binary_data_size: bytes behind the JSON. shared_memory_region: there is none here."""

    binary_data_size: Count | None = None
    shared_memory_region: Any = None


class InputBody(Closed, kw_only=True):
    """data: elements in row-major order, flat or nested as `shape` says; left out for binary."""

    name: Name
    shape: Shape
    datatype: Datatype
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class OutputParameters(msgspec.Struct, kw_only=True):
    """binary_data: None for what the request says of all. classification: this many of the
    largest elements instead of all."""

    binary_data: bool | None = None
    classification: Count = 0
    shared_memory_region: Any = None


class OutputBody(Closed, kw_only=True):
    name: Name
    parameters: OutputParameters | None = None


class InferParameters(msgspec.Struct, kw_only=True):
    """priority: Triton's numbers, 1 is the most urgent and 0 the default, or our words.
    timeout: microseconds, 0 for none. sequence_id: nothing is kept from request to request here.
    """

    binary_data_output: bool = False
    priority: Count | Priority = 0
    timeout: Count = 0
    sequence_id: Count | str = 0


class InferBody(Closed, kw_only=True):
    """POST /v2/models/{name}/infer. model_name, model_version: if at all, those of the path."""

    inputs: Annotated[list[InputBody], Meta(min_length=1, max_length=MOST_TENSORS)]
    outputs: Annotated[list[OutputBody], Meta(max_length=MOST_TENSORS)] | None = None
    parameters: InferParameters | None = None
    id: Id | None = None
    model_name: str | None = None
    model_version: str | None = None


class IndexBody(Closed, kw_only=True):
    """POST /v2/repository/index. ready: only models that can answer."""

    ready: bool = False
