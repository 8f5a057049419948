"""The classic fault of boards, said at every start: a llama.cpp without CUDA, or whose CUDA finds
no GPU, works there, slowly and silently."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from edge.host import board, llama_build
from edge.host.llama_build import LlamaBuild

logger = logging.getLogger(__name__)


def watch(root: Path = Path("/")) -> None:
    """Asks the library where this is a Jetson. That takes seconds, for which nothing waits."""
    if board.is_jetson(root):
        threading.Thread(target=_warn, name="idle-gpu", daemon=True).start()


def _warn() -> None:
    build = llama_build.probe()
    if isinstance(build, LlamaBuild) and not build.gpus:
        why = f" ({build.idle_cuda})" if build.idle_cuda else ""
        logger.warning(
            "this llama.cpp computes on the CPU alone, and the GPU of this Jetson is idle%s: "
            "`edge doctor` tells what to do",
            why,
        )
