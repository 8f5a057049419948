"""One onnxruntime session: a model file checked, loaded, and asked.

The file is looked at before onnxruntime sees it; what config.pbtxt says of its inputs and outputs
is compared with what the file says of itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edge.errors import BadModelFile, InferenceFailed, InvalidRequest, OutOfMemory
from edge.onnx import providers
from edge.onnx.elements import ONNX
from edge.onnx.protocol import ModelSpec, Setup
from edge.onnx.task import Arrays
from edge.repository.onnxfile import check
from edge.repository.triton import ValueShape
from edge.tensors import TensorFacts

logger = logging.getLogger("edge.onnx")

_BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
"""What exporters call a first dimension that is for rows which have nothing to do with each other.
Others may be a time or a set, in which rows of two requests would be taken for one."""


class Session:
    """inputs, outputs: as the file declares them. max_batch: 0 where rows cannot be joined."""

    def __init__(self, spec: ModelSpec, setup: Setup) -> None:
        """Raises `BadModelFile` and `ModelLoadFailed`."""
        path = Path(spec.file)
        try:
            check(path)
        except OSError as error:
            raise BadModelFile(f"{path.name} cannot be read: {error}") from None
        hoped = providers.wanted(setup.provider, spec.device, ort.get_available_providers())
        self._session = _load(path, setup.threads, hoped)
        real = self._session.get_providers()
        self.provider = providers.used(spec.name, setup.provider, hoped, real)
        self.inputs = [_facts(one) for one in self._session.get_inputs()]
        self.outputs = [_facts(one) for one in self._session.get_outputs() if one.type in ONNX]
        if not self.outputs:
            raise BadModelFile("none of its outputs is a tensor")
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.max_batch = self._max_batch(spec)
        if spec.declared is not None:
            _compare("input", spec.declared.inputs, self.inputs, batched=self.max_batch > 0)
            _compare("output", spec.declared.outputs, self.outputs, batched=self.max_batch > 0)
        self._names = [one.name for one in self.outputs]

    def run(self, inputs: Arrays, options: ort.RunOptions) -> Arrays:
        """All outputs. options: whose `terminate` another thread may set.

        Raises `InvalidRequest` for what the model cannot be given, `InferenceFailed` for the rest.
        """
        try:
            return dict(
                zip(self._names, self._session.run(self._names, inputs, options), strict=True)
            )
        except MemoryError:
            raise InferenceFailed("there is not enough memory to compute it") from None
        except Exception as error:  # onnxruntime's have no base of their own
            said = _sentence(error)
            if type(error).__name__ == "InvalidArgument":
                raise InvalidRequest(
                    f"the model cannot take this: {said}", param="inputs"
                ) from None
            raise InferenceFailed(f"the model could not compute it: {said}") from None

    def _max_batch(self, spec: ModelSpec) -> int:
        asked = spec.manifest.batch.max
        if asked is None and spec.declared is not None:
            asked = spec.declared.max_batch
        if asked == 0 or (asked == 1 and not self._free):
            return 0
        if asked is not None:
            if not self._free:
                raise BadModelFile(
                    f"batches of {asked} are asked for, and the first dimension of an input or "
                    "output is not free",
                    hint="set max_batch_size to 0, or export the model with a free batch dimension",
                )
            return asked
        for_rows = spec.manifest.task != "tensors" or self._first_is_batch
        return spec.default_batch if self._free and for_rows else 0

    @property
    def _free(self) -> bool:
        """Any number fits as first dimension, of all inputs and outputs."""
        values = [*self.inputs, *self.outputs]
        return bool(self.inputs) and all(one.shape and one.shape[0] == -1 for one in values)

    @property
    def _first_is_batch(self) -> bool:
        """All first dimensions have one and the same name, which says so."""
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        firsts = {str(one.shape[0]) if one.shape else "" for one in values}
        return len(firsts) == 1 and _BATCH_NAME.search(firsts.pop()) is not None


def _load(path: Path, threads: int, hoped: Sequence[str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A plan of the memory for each shape that ever came is kept beside the memory of the others:
    # 430 MB in place of 250 for MiniLM at 32 rows of 128 tokens, and no faster.
    options.enable_mem_pattern = False
    # A thread that spins for work keeps a core from llama.cpp's, which wait for each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=list(hoped))
    except MemoryError:
        raise OutOfMemory(f"{path.name}: there is not enough memory to load it") from None
    except Exception as error:  # onnxruntime's have no base of their own
        raise BadModelFile(
            f"onnxruntime {ort.__version__} cannot load it: {_sentence(error)}",
            hint="export it for an older opset, or with operators that onnxruntime has",
        ) from None


def _facts(value: Any) -> TensorFacts:
    if value.type not in ONNX:
        raise BadModelFile(f"its input `{value.name}` is of {value.type}, which cannot be given")
    shape = [size if isinstance(size, int) and size > 0 else -1 for size in value.shape]
    return TensorFacts(value.name, ONNX[value.type], shape)


def _compare(
    what: str, said: Sequence[ValueShape], there: Sequence[TensorFacts], *, batched: bool
) -> None:
    """config.pbtxt, which says dims without the batch, with the file. Raises `BadModelFile`."""
    named = {one.name: one for one in there}
    for value in said:
        real = named.get(value.name)
        if real is None:
            raise BadModelFile(
                f"config.pbtxt has the {what} `{value.name}`; the model has {', '.join(named)}"
            )
        dims = [-1, *value.dims] if batched else list(value.dims)
        fits = len(dims) == len(real.shape) and all(
            -1 in (one, other) or one == other for one, other in zip(dims, real.shape, strict=True)
        )
        if value.datatype != real.datatype or not fits:
            raise BadModelFile(
                f"config.pbtxt says that the {what} `{value.name}` is {value.datatype} {dims}; the "
                f"model says {real.datatype} {real.shape}"
            )


def _sentence(error: Exception) -> str:
    """What onnxruntime says, without its codes and on one line."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    return " ".join(text.split())[:600] or type(error).__name__
