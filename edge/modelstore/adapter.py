"""LoRA adapters: GGUF files that change a model, checked before llama.cpp sees them.

An adapter has two small matrices for each tensor of its base that it changes. llama.cpp leaves some
of what can be wrong with them to an assertion that ends the process:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.cpp, `llama_adapter_lora_init`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge.modelstore.container import Contents, explained, open_gguf, read_contents
from edge.modelstore.ggml import ARCHITECTURES
from edge.modelstore.tensors import Tensor, Tensors
from edge.modelstore.window import Malformed, Window

KIND = "adapter"

_A, _B = ".lora_a", ".lora_b"
_TYPES = frozenset(("F32", "F16", "BF16", "Q8_0"))
_TOKENS = "token_embd.weight"
_WRONG_BASE = "serve it with the model that it was made for, of the same sizes"


class AdapterHeader(msgspec.Struct, frozen=True):
    """The facts of an adapter's file that passed the check.

    architecture: of the models that it may fit. alpha: its strength is this by the rank.
    rank: the largest of its matrices. targets: tensors that it changes.
    """

    architecture: str
    name: str
    alpha: float
    rank: int
    targets: int
    parameters: int
    size_bytes: int


class _Pair(NamedTuple):
    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return min(self.a.shape[0], self.a.shape[1])


def read_adapter(path: Path) -> AdapterHeader:
    """Check the file and return its facts. Raises `BadModelFile`."""
    with explained(path):
        contents, size = _contents(path)
        return adapter_facts(contents, size)


def is_adapter(contents: Contents) -> bool:
    return contents.metadata.text("general.type") == KIND


def adapter_facts(contents: Contents, size: int) -> AdapterHeader:
    """Raises `Malformed`."""
    metadata = contents.metadata
    if not is_adapter(contents):
        raise Malformed("it is not an adapter", hint="name a LoRA adapter behind the +")
    kind = metadata.text("adapter.type")
    if kind != "lora":
        raise Malformed(f"it is an adapter of the type {kind!r}, not 'lora'")
    if "adapter.alora.invocation_tokens" in metadata:
        raise Malformed("it is an activated LoRA, which works behind certain tokens only")
    architecture = metadata.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise Malformed(f"llama.cpp has no language model architecture {architecture!r}")
    alpha = metadata.real("adapter.lora.alpha")
    if alpha is None:
        raise Malformed("adapter.lora.alpha is missing")
    pairs = _pairs(contents.tensors)
    return AdapterHeader(
        architecture=architecture,
        name=metadata.text("general.name") or "",
        alpha=alpha,
        rank=max(pair.rank for pair in pairs.values()),
        targets=len(pairs),
        parameters=sum(tensor.numbers for tensor in contents.tensors.values()),
        size_bytes=size,
    )


def check_fit(adapter: Path, model: Path) -> None:
    """That the adapter changes what the model has. Raises `BadModelFile`."""
    with explained(model):
        base, _ = _contents(model)
    with explained(adapter):
        contents, size = _contents(adapter)
        facts = adapter_facts(contents, size)
        architecture = base.metadata.text("general.architecture")
        if facts.architecture != architecture:
            raise Malformed(
                f"it is for models of the architecture {facts.architecture}, and {model.name} is "
                f"{architecture}",
                hint=_WRONG_BASE,
            )
        for name, pair in _pairs(contents.tensors).items():
            _check_pair(name, pair, base.tensors, model)


def _contents(path: Path) -> tuple[Contents, int]:
    with open_gguf(path) as file:
        size = os.fstat(file.fileno()).st_size
        return read_contents(Window(file, size)), size


def _pairs(tensors: Tensors) -> dict[str, _Pair]:
    """By the tensor of the base. llama.cpp passes over changes of norms, which some files have."""
    pairs = {}
    for name, tensor in tensors.items():
        if name.endswith("_norm.weight"):
            continue
        target, end = name[: -len(_A)], name[-len(_A) :]
        if end not in (_A, _B):
            raise Malformed(f"tensor {name!r} is neither {_A} nor {_B} of another")
        other = tensors.get(target + (_B if end == _A else _A))
        if other is None:
            raise Malformed(f"tensor {name!r} is there without its other half")
        if tensor.type.name not in _TYPES or len(tensor.shape) not in (2, 3):
            kind, shape = tensor.type.name, list(tensor.shape)
            raise Malformed(f"tensor {name!r} of type {kind} has the shape {shape}")
        if end == _A:
            pairs[target] = _Pair(tensor, other)
    if not pairs:
        raise Malformed("it changes no tensor")
    return pairs


def _check_pair(name: str, pair: _Pair, base: Tensors, model: Path) -> None:
    tensor = base.get(name)
    if tensor is None:
        raise Malformed(f"it changes {name!r}, which {model.name} has not", hint=_WRONG_BASE)
    if name == _TOKENS and "output.weight" not in base:
        # llama.cpp would use the matrices for the output too, where they do not fit.
        raise Malformed("it changes the token embeddings, which are the output's too")
    a, b = pair.a.shape, pair.b.shape
    # A row of numbers goes through a and then through b; for tokens, a is looked up.
    made = (b[1], a[1]) if name == _TOKENS else (a[0], b[1])
    inner = (a[0], b[0]) if name == _TOKENS else (a[1], b[0])
    if made != tensor.shape[:2] or {a[2:], b[2:]} != {tensor.shape[2:]}:
        raise Malformed(
            f"its matrices for {name!r} make the shape {[*made, *b[2:]]}, and that of {model.name} "
            f"has {list(tensor.shape)}",
            hint=_WRONG_BASE,
        )
    if inner[0] != inner[1]:
        raise Malformed(f"its matrices for {name!r} have the ranks {inner[0]} and {inner[1]}")
