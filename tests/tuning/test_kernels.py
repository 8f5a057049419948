"""Which weights types a build computes fastest, and which are worth a try for a model."""

from __future__ import annotations

import msgspec
import pytest

from edge.modelstore.gguf import GgufHeader
from edge.modelstore.quantize import WEIGHTS_TYPES
from edge.tuning.kernels import (
    bits,
    candidates,
    fits,
    is_packed,
    may_gain,
    packed_by_build,
    packed_by_processor,
)

AVX2 = packed_by_build("CPU : AVX = 1 | AVX2 = 1 | OPENMP = 1 | REPACK = 1 | ")
AMX = packed_by_build("CPU : AVX2 = 1 | AVX512 = 1 | AMX_INT8 = 1 | REPACK = 1 | ")
ARM = packed_by_build("CPU : NEON = 1 | ARM_FMA = 1 | DOTPROD = 1 | REPACK = 1 | ")
HEADER = GgufHeader(
    architecture="llama",
    name="",
    context=2048,
    layers=2,
    embedding=2048,
    vocab=100,
    parameters=1,
    kv_values=None,
    heads=None,
    feed_forward=5632,
    file_type="F16",
    has_chat_template=True,
    size_bytes=1,
)


def header(file_type: str | None, embedding: int = 2048) -> GgufHeader:
    return msgspec.structs.replace(HEADER, file_type=file_type, embedding=embedding)


def test_what_each_build_lays_out_anew() -> None:
    """Q4_1 only with AMX, Q8_0 not on a PC without it, nothing where that was not compiled in."""
    assert {"Q4_0", "Q4_K", "IQ4_NL"} <= AVX2
    assert AVX2.isdisjoint({"Q4_1", "Q8_0", "Q6_K"})
    assert {"Q4_0", "Q4_1", "Q8_0", "Q6_K"} <= AMX
    assert "IQ4_NL" not in AMX
    assert {"Q4_0", "Q8_0", "Q6_K", "IQ4_NL"} <= ARM
    assert packed_by_build("CPU : AVX2 = 1 | OPENMP = 1 |") == frozenset()
    assert packed_by_build("CPU : AVX2 = 0 | REPACK = 1 |") == frozenset()


def test_flags_of_the_kernel_tell_the_same() -> None:
    """For a build that uses all that the processor has."""
    assert packed_by_processor(frozenset({"fpu", "avx2"})) == AVX2
    assert packed_by_processor(frozenset({"avx2", "avx512f", "amx_int8"})) == AMX
    assert packed_by_processor(frozenset({"asimd", "asimddp"})) == ARM
    assert packed_by_processor(frozenset()) == frozenset()


def test_mixed_files_count_with_all_that_is_in_them() -> None:
    """Q4_K_M has a good part of Q6_K, which a PC without AMX does not lay out."""
    assert is_packed("Q4_K_M", AMX)
    assert is_packed("Q4_K_M", ARM)
    assert not is_packed("Q4_K_M", AVX2)
    assert not is_packed("nonsense", AVX2)


def test_all_that_can_be_made_is_known() -> None:
    """Each has a size, and from finest to coarsest they are in order."""
    sizes = [bits(one) or 0 for one in WEIGHTS_TYPES]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) > 2


@pytest.mark.parametrize(
    ("file_type", "packed", "expected"),
    [
        ("F16", AVX2, ["Q8_0", "Q4_K_M", "IQ4_NL", "Q4_0"]),
        ("F16", AMX, ["Q8_0", "Q6_K", "Q4_K_M", "Q4_0"]),
        ("Q4_1", AVX2, ["Q4_K_M", "IQ4_NL", "Q4_0"]),
        ("Q4_1", AMX, ["Q4_K_M", "Q4_0"]),
        ("Q4_K_M", ARM, []),
        ("Q4_K_M", AVX2, ["IQ4_NL", "Q4_0"]),
        ("Q4_0", AVX2, []),
        (None, AVX2, []),
    ],
)
def test_candidates_are_packed_and_no_finer_than_the_source(
    file_type: str | None, packed: frozenset[str], expected: list[str]
) -> None:
    """And for what is packed already only coarser ones can be faster."""
    assert candidates(header(file_type), packed, on_gpu=False) == expected


def test_types_whose_blocks_do_not_fit_are_left_out() -> None:
    """llama.cpp would take other types for such rows: 576 is no multiple of 256."""
    narrow = header("F16", embedding=576)
    assert not fits("Q4_K_M", narrow)
    assert candidates(narrow, AVX2, on_gpu=False) == ["Q8_0", "IQ4_NL", "Q4_0"]


def test_on_a_gpu_only_the_size_counts() -> None:
    """Nothing is laid out anew there."""
    assert candidates(header("F16"), AVX2, on_gpu=True) == ["Q8_0", "Q6_K", "Q4_K_M"]
    assert candidates(header("Q4_K_M"), AVX2, on_gpu=True) == []


def test_gain_is_promised_only_where_it_was_measured() -> None:
    """Q4_1 is slow where it is not packed and others are; of the rest nothing is said."""
    assert may_gain("Q4_1", AVX2)
    assert not may_gain("Q4_1", AMX)
    assert not may_gain("Q4_1", frozenset())
    assert not may_gain("Q4_0", AVX2)
    assert not may_gain("Q5_1", AVX2)
