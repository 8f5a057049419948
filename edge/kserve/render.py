"""From what a model has computed to the answer's JSON and the binary data behind it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edge.errors import EdgeError
from edge.kserve import numbers, texts
from edge.kserve.classes import classified
from edge.kserve.parse import Asked, Form
from edge.tensors import Datatype, Inferred, Tensor, TensorResult


class BinarySize(msgspec.Struct):
    binary_data_size: int


class Output(msgspec.Struct, omit_defaults=True):
    """Either `data` or the size of binary data."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: BinarySize | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[Output]
    id: str | None = None
    parameters: dict[str, float] | None = None


class ErrorAnswer(msgspec.Struct):
    error: str


@dataclass
class Rendered:
    """header: JSON. binary: data of the outputs that are answered so, in their order."""

    header: bytes
    binary: bytes


def render(inferred: Inferred, asked: Asked) -> Rendered:
    """Raises `InvalidRequest` for outputs that JSON cannot tell."""
    outputs, binary = [], []
    for tensor, form in _told(inferred, asked):
        if form.classes:
            tensor = classified(tensor, form.classes)
        output = Output(tensor.name, tensor.datatype, tensor.shape)
        if form.binary:
            output.parameters = BinarySize(len(tensor.data))
            binary.append(tensor.data)
        else:
            output.data = msgspec.Raw(_to_json(tensor))
        outputs.append(output)
    answer = Answer(inferred.model, str(inferred.version), outputs, asked.id)
    if inferred.energy.joules is not None:
        answer.parameters = {"energy_joules": round(inferred.energy.joules, 4)}
    return Rendered(msgspec.json.encode(answer), b"".join(binary))


def effort(inferred: Inferred, asked: Asked) -> int:
    """Bytes of tensors that `render` has to look at one by one."""
    told = _told(inferred, asked)
    return sum(len(one.data) for one, form in told if form.classes or not form.binary)


def error_json(error: EdgeError) -> bytes:
    """`{"error": "…"}`, as the protocol has it."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return msgspec.json.encode(ErrorAnswer(message))


def _told(inferred: Inferred, asked: Asked) -> list[tuple[Tensor, Form]]:
    """The outputs, and how each is told."""
    assert isinstance(inferred.result, TensorResult)
    otherwise = Form(asked.binary, 0)
    return [(one, asked.forms.get(one.name, otherwise)) for one in inferred.result.outputs]


def _to_json(tensor: Tensor) -> bytes:
    return texts.to_json(tensor) if tensor.datatype == "BYTES" else numbers.to_json(tensor)
