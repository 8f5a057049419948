"""What the installed llama.cpp was built for, found out in a process of its own.

A library built for another processor or CUDA version dies with a signal on import; that must be
a finding and not the end of whoever asks.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

_PROBE = """
import json, llama_cpp
print(json.dumps({
    "version": llama_cpp.__version__,
    "gpu_offload": bool(llama_cpp.llama_supports_gpu_offload()),
    "system_info": llama_cpp.llama_print_system_info().decode(errors="replace"),
}))
"""
# CUDA start-up on a cold Jetson takes tens of seconds.
_SECONDS = 120.0


class LlamaBuild(msgspec.Struct):
    """version: of the Python package. system_info: llama.cpp's own list of what is compiled in."""

    version: str
    gpu_offload: bool
    system_info: str

    @property
    def back_end(self) -> str:
        if not self.gpu_offload:
            return "CPU"
        return "CUDA" if "CUDA" in self.system_info else "GPU (not CUDA)"


class BrokenBuild(msgspec.Struct):
    """llama.cpp cannot be used at all; `why` is one line."""

    why: str


def probe() -> LlamaBuild | BrokenBuild:
    """Import llama.cpp in a child process and ask it. Takes about a second, on a GPU more."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return BrokenBuild(f"importing it did not end within {_SECONDS:.0f} s")
    if child.returncode < 0:
        return BrokenBuild(f"importing it ends with {signal.Signals(-child.returncode).name}")
    if child.returncode > 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        return BrokenBuild(lines[-1] if lines else f"exit code {child.returncode}")
    try:
        # The libraries may have written to the same pipe before.
        return msgspec.json.decode(child.stdout.strip().splitlines()[-1], type=LlamaBuild)
    except (IndexError, msgspec.MsgspecError):
        return BrokenBuild("its answer cannot be read")
