"""From the bytes of an inference request to the work that it asks for.

Pure: raises `InvalidRequest` with the field at fault, and has no state. What a model takes and
gives is not known here; it is compared where the model is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from edge.errors import InvalidRequest, UnsupportedParameter
from edge.kserve import numbers, texts
from edge.kserve.schema import InferBody, InferParameters, InputBody, InputParameters, OutputBody
from edge.tensors import Tensor, TensorWork
from edge.types import Priority

T = TypeVar("T")

MICROSECONDS = 1_000_000


@dataclass
class Asked:
    """One inference request. timeout: seconds, None for no end. id: to be told in the answer.

    model_name, model_version: as the body has them, for they may be there too; the path counts.
    binary: whether an output that is not in `forms` is answered as binary data.
    """

    work: TensorWork
    id: str | None
    model_name: str | None
    model_version: str | None
    priority: Priority
    timeout: float | None
    binary: bool
    forms: dict[str, Form]


@dataclass
class Form:
    """How an output is answered. classes: so many of the largest elements; 0: all as they are."""

    binary: bool
    classes: int


def parse(raw: bytes, header_length: int | None = None) -> Asked:
    """raw: a body. header_length: bytes of it that are JSON, None for all; the rest is binary data.

    Milliseconds for each megabyte, with the interpreter's lock held for a fraction at a time.
    """
    if header_length is not None and header_length > len(raw):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {header_length}, and the body has {len(raw)} bytes"
        )
    header = raw if header_length is None else raw[:header_length]
    body = decode(header, InferBody)
    _distinct((one.name for one in body.inputs), "inputs")
    _distinct((one.name for one in body.outputs or []), "outputs")
    parameters = body.parameters or InferParameters()
    if parameters.sequence_id not in (0, ""):
        raise UnsupportedParameter(
            "`parameters.sequence_id`: nothing is kept here from request to request",
            param="parameters.sequence_id",
            hint="send the model's state as an input, and take the next one from its outputs",
        )
    forms = {
        one.name: _form(one, f"outputs[{place}]", parameters.binary_data_output)
        for place, one in enumerate(body.outputs or [])
    }
    return Asked(
        work=TensorWork(_tensors(body.inputs, raw, len(header)), list(forms)),
        id=body.id,
        model_name=body.model_name,
        model_version=body.model_version,
        priority=_priority(parameters.priority),
        timeout=parameters.timeout / MICROSECONDS or None,
        binary=parameters.binary_data_output,
        forms=forms,
    )


def effort(raw: bytes, header_length: int | None) -> int:
    """Bytes that `parse` has to look at one by one: JSON, and texts in binary data. Numbers there
    are copied as they are."""
    header = raw[:header_length]
    texts_behind = b"BYTES" in header or b"\\" in header  # which may spell it otherwise
    return len(raw) if texts_behind else len(header)


def decode(raw: bytes, body: type[T]) -> T:
    """Raises `InvalidRequest` for what is not JSON or not what the fields allow."""
    try:
        return msgspec.json.decode(raw, type=body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        no_json = re.search(rb"\b(NaN|Infinity)\b", raw)
        hint = "send tensors with NaN or infinity as binary data" if no_json else None
        raise InvalidRequest(f"the body is not valid JSON: {error}", hint=hint) from None


def _refusal(problem: str) -> InvalidRequest:
    """msgspec's message as an error that names the field."""
    message, _, path = problem.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    if named := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", message):
        field = f"{field}.{named[2]}".lstrip(".")
        message = "missing" if named[1] == "missing required" else "no such field"
    return InvalidRequest(f"`{field}`: {message}" if field else message, param=field or None)


def _distinct(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for place, name in enumerate(names):
        if name in seen:
            raise InvalidRequest(f"`{name}` is there twice", param=f"{where}[{place}].name")
        seen.add(name)


def _form(output: OutputBody, where: str, binary: bool) -> Form:
    asked = output.parameters
    if asked is None:
        return Form(binary, 0)
    if asked.shared_memory_region is not None:
        raise _no_shared_memory(where)
    return Form(binary if asked.binary_data is None else asked.binary_data, asked.classification)


def _tensors(inputs: list[InputBody], raw: bytes, begin: int) -> list[Tensor]:
    """begin: where in `raw` the binary data begins."""
    tensors = []
    for place, one in enumerate(inputs):
        where = f"inputs[{place}]"
        parameters = one.parameters or InputParameters()
        if parameters.shared_memory_region is not None:
            raise _no_shared_memory(where)
        size = parameters.binary_data_size
        if size is None:
            data = _from_json(one, f"{where}.data")
        else:
            data = raw[begin : begin + size]
            _check_binary(one, data, size, where)
            begin += size
        tensors.append(Tensor(one.name, one.datatype, one.shape, data))
    if begin < len(raw):
        raise InvalidRequest(f"{len(raw) - begin} bytes of the body belong to no input")
    return tensors


def _from_json(one: InputBody, where: str) -> bytes:
    data = _data(one)
    if not data:
        raise InvalidRequest(f"`{where}`: missing", param=where)
    if not data.startswith(b"["):
        raise InvalidRequest(f"`{where}`: Expected `array`", param=where)
    if one.datatype == "BYTES":
        return texts.from_json(data, one.shape, where)
    return numbers.from_json(data, one.datatype, one.shape, where)


def _data(one: InputBody) -> bytes:
    """JSON; empty where there is none, or null."""
    data = bytes(one.data).strip()
    return b"" if data == b"null" else data


def _check_binary(one: InputBody, data: bytes, size: int, where: str) -> None:
    if _data(one):
        raise InvalidRequest(
            f"`{where}` has data and binary_data_size: it is either", param=f"{where}.data"
        )
    where = f"{where}.parameters.binary_data_size"
    if len(data) < size:
        raise InvalidRequest(
            f"`{where}` is {size}, and the body has {len(data)} bytes left",
            param=where,
            hint="Inference-Header-Content-Length tells where the JSON ends",
        )
    if one.datatype == "BYTES":
        texts.check_binary(data, one.shape, where)
    else:
        numbers.check_binary(data, one.datatype, one.shape, where)


def _priority(given: int | Priority) -> Priority:
    if not isinstance(given, int):
        return given
    if given == 1:
        return "critical"
    return "normal" if given in (0, 2) else "batch"


def _no_shared_memory(where: str) -> UnsupportedParameter:
    where = f"{where}.parameters.shared_memory_region"
    return UnsupportedParameter(f"`{where}`: there is no shared memory here", param=where)
