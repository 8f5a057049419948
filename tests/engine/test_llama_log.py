"""What a failed load is taken for, by what llama.cpp said."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.engine.llama import LlamaLog
from edge.engine.shortage import telling
from edge.errors import ModelLoadFailed, OutOfMemory


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ("error loading model: done_getting_tensors: wrong number of tensors", ModelLoadFailed),
        ("error loading model: missing tensor 'blk.0.attn_q.weight'", ModelLoadFailed),
        ("alloc_tensor_range: failed to allocate CPU buffer of size 4294967296", OutOfMemory),
        ("allocating 812.00 MiB on device 0: cudaMalloc failed: out of memory", OutOfMemory),
        ("error loading model: unable to allocate CUDA0 buffer", OutOfMemory),
        ("graph allocation: failed to reserve memory", OutOfMemory),
        ("encountered bad_alloc error while reading tensor name 3", OutOfMemory),
    ],
)
def test_only_a_want_of_memory_is_one(last: str, kind: type[ModelLoadFailed]) -> None:
    """The lines before it tell of allocations that did not fail, as they do in each load."""
    log = LlamaLog()
    for line in ("print_info: no_alloc              = 0", "CPU: allocated 'x' buffer 2 MiB", last):
        log.lines.append(line)
    assert log.failure() is kind


REFUSALS = Path(__file__).parents[1] / "refusals"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("orin-nano-load", "alloc_tensor_range: failed to allocate CUDA0 buffer of size 362517888"),
        ("orin-nano-decode", "CUDA error: out of memory"),
        ("agx-orin-vmm", "CUDA error: out of memory"),
        ("agx-orin-cublas", "CUDA error: the resource allocation failed"),
        ("orin-internal-error", None),
    ],
)
def test_what_boards_wrote(words: str, line: str | None) -> None:
    """The last line that tells, and none where something else was wrong."""
    assert telling((REFUSALS / f"{words}.txt").read_text().splitlines()) == line


@pytest.mark.parametrize(
    "line",
    [
        "memory allocation of 65536 bytes failed",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "MemoryError",
    ],
)
def test_other_languages_say_it_too(line: str) -> None:
    """Rust's, of grammars; C++'s; Python's."""
    assert telling([line, "Aborted"]) == line


def test_nvidias_allocator_is_enough() -> None:
    """Where llama.cpp itself says nothing."""
    lines = (REFUSALS / "orin-nano-load.txt").read_text().splitlines()[:2]
    assert telling(lines[:1]) == "NvMapMemAllocInternalTagged: 1075072515 error 12"
    assert telling(lines) == "NvMapMemHandleAlloc: error 0"
