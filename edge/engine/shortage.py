"""What native code says where memory is short: llama.cpp, its back ends, and NVIDIA's libraries.

None of them has a code for it that outlives the process: there is a line of text, and then a call
that failed, or a process that ended itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edge.errors import OutOfMemory

_WORDS = re.compile(
    # Not any line about allocating: each load tells `no_alloc`.
    r"(failed|unable|not enough space|attempted)\b.* to allocate|alloc\w* failed|bad_alloc"
    r"|insufficient ?memory|out of memory|failed to reserve memory|failed to allocate"
    r"|memory allocation of \d+ bytes failed"
    # cuBLAS has a name of its own for the same, and so has the loader of a kernel.
    r"|resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY"
    # Jetson: NVIDIA's allocator of the memory that processors and GPU share. 12 is ENOMEM. It
    # writes to the process's error output and not to llama.cpp's log.
    r"|NvMapMem\w+: (\d+ )?error \d+|NvRmStream: Buffer allocation failed|MemoryError",
    re.IGNORECASE,
)


def telling(lines: Iterable[str]) -> str | None:
    """The last of the lines that says that memory was short; None where none does."""
    return next((line for line in reversed(list(lines)) if _WORDS.search(line)), None)


class WeightsDoNotFit(OutOfMemory):
    """There was no memory for the weights alone: a smaller KV cache does not help."""
