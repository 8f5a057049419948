"""Which weights types llama.cpp lays out anew at load for the vector units of a processor.

Those are computed several rows at a time, and prompts and many streams gain most; all others take
the slower way of one row after the other. The tables follow llama.cpp's
`ggml/src/ggml-cpu/repack.cpp` (`ggml_repack_get_optimal_repack_type`) and
`ggml/src/ggml-cpu/amx/common.h` (`qtype_has_amx_kernels`) as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from edge.modelstore.ggml import tensor_types
from edge.modelstore.gguf import GgufHeader
from edge.modelstore.quantize import WeightsType

_X86, _DOTPROD, _I8MM = "AVX2", "DOTPROD", "MATMUL_INT8"

_REPACKED = {
    "Q4_0": (_X86, _DOTPROD, _I8MM),
    "Q4_K": (_X86, _DOTPROD, _I8MM),
    "IQ4_NL": (_X86, _DOTPROD),
    "MXFP4": (_X86, _DOTPROD),
    "Q8_0": (_DOTPROD, _I8MM),
    "Q5_K": (_DOTPROD, _I8MM),
    "Q6_K": (_DOTPROD, _I8MM),
    "Q2_K": ("AVX512",),
}
"""By type of a tensor: features of the build, one of which is enough."""

_TILED = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
"""What has kernels for Intel's AMX. They come first, and the rest is slow beside them."""

_PROPOSED: tuple[WeightsType, ...] = ("Q8_0", "Q6_K", "Q4_K_M", "IQ4_NL", "Q4_0")
"""Finest first. Their neighbours (Q5_K_M, Q4_K_S, Q4_1) are for those who name them."""

_ON_GPU: tuple[WeightsType, ...] = ("Q8_0", "Q6_K", "Q4_K_M")
"""CUDA has kernels for all types, so that size alone decides, and these lose least for theirs."""

_SLOW_UNPACKED = ("Q4_1",)
"""Types that were measured to be several times as slow where they are not packed, as most of their
neighbours are (docs/performance.md)."""

_BY_FLAG = {
    "avx2": _X86,
    "avx512f": "AVX512",
    "amx_int8": "AMX_INT8",
    "asimddp": _DOTPROD,
    "i8mm": _I8MM,
}


def packed_by_build(system_info: str) -> frozenset[str]:
    """Types of tensors that are laid out anew. system_info: llama.cpp's list of its features."""
    features = {
        name.rpartition(":")[2].strip()
        for part in system_info.split("|")
        if (name := part.partition("=")[0]) and part.partition("=")[2].strip() != "0"
    }
    return _packed(features) if "REPACK" in features else frozenset()


def packed_by_processor(flags: frozenset[str]) -> frozenset[str]:
    """The same for a build that uses all that the processor has. flags: the kernel's names."""
    return _packed({_BY_FLAG[flag] for flag in flags & _BY_FLAG.keys()})


def is_packed(file_type: str, packed: frozenset[str]) -> bool:
    """Whether all types that most weights of such a file have are among them."""
    types = tensor_types(file_type)
    return bool(types) and all(kind.name in packed for kind in types)


def may_gain(file_type: str, packed: frozenset[str]) -> bool:
    """Whether such a file is known to be slow on a CPU that packs other types and not its own."""
    return bool(packed) and file_type in _SLOW_UNPACKED and not is_packed(file_type, packed)


def bits(file_type: str | None) -> float | None:
    """Of a weight, in most tensors of such a file; None where that is not known."""
    types = tensor_types(file_type or "")
    return types[0].bits if types else None


def fits(kind: WeightsType, header: GgufHeader) -> bool:
    """Whether the rows of the model can be of that type: llama.cpp takes a finer one for those
    that are no multiple of its blocks, and the file is then of another type than it says."""
    block = tensor_types(kind)[0].block
    return all(width % block == 0 for width in (header.embedding, header.feed_forward or 0))


def candidates(header: GgufHeader, packed: frozenset[str], on_gpu: bool) -> list[WeightsType]:
    """What may be faster for this model here, finest first; none that is finer than the source.

    To what is packed already only fewer bits can be an advantage.
    """
    limit = bits(header.file_type)
    if header.file_type is None or limit is None:
        return []
    fast = on_gpu or is_packed(header.file_type, packed)
    found: list[WeightsType] = []
    for kind in _ON_GPU if on_gpu else _PROPOSED:
        size = tensor_types(kind)[0].bits
        suits = on_gpu or kind == "Q8_0" or tensor_types(kind)[0].name in packed
        coarser = size < limit or (size == limit and not fast and kind != header.file_type)
        if suits and coarser and fits(kind, header):
            found.append(kind)
    return found


def _packed(features: set[str]) -> frozenset[str]:
    if "AMX_INT8" in features:
        return frozenset(_TILED)
    return frozenset(name for name, needs in _REPACKED.items() if features.intersection(needs))
