"""What the installed llama.cpp was built for, found out in a process of its own.

A library built for another processor or CUDA version dies with a signal on import; that must be
a finding and not the end of whoever asks.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import msgspec

_PROGRAM = "edge.engine.devices"
# CUDA start-up on a cold Jetson takes tens of seconds.
_SECONDS = 120.0
_COMPLAINT = re.compile(r"fail|error|cannot|unable|insufficient", re.IGNORECASE)


class LlamaDevice(msgspec.Struct, frozen=True):
    """kind: as in `edge.engine.devices`. free: bytes, as its back end says."""

    name: str
    description: str
    kind: str
    back_end: str
    free: int


class LlamaBuild(msgspec.Struct):
    """version: of the Python package. system_info: llama.cpp's own list of what is compiled in.
    back_ends: that it has. unloadable: why CUDA's is there and was not loaded. said: what the
    libraries wrote when they were started."""

    version: str
    gpu_offload: bool
    system_info: str
    back_ends: list[str] = []
    devices: list[LlamaDevice] = []
    unloadable: str | None = None
    said: str = ""

    @property
    def gpus(self) -> list[LlamaDevice]:
        return [device for device in self.devices if device.kind in ("gpu", "integrated")]

    @property
    def back_end(self) -> str:
        if not self.gpu_offload:
            return "CPU"
        return "CUDA" if "CUDA" in self.system_info else "GPU (not CUDA)"

    @property
    def idle_cuda(self) -> str | None:
        """Why CUDA is there and computes nothing; None where it computes, or is not there."""
        if self.unloadable is not None:
            return f"its CUDA back end cannot be loaded: {self.unloadable}"
        if "CUDA" in self.back_ends and not any(gpu.back_end == "CUDA" for gpu in self.gpus):
            return f"its CUDA back end finds no GPU: {self.said or 'it does not say why'}"
        return None


class BrokenBuild(msgspec.Struct):
    """llama.cpp cannot be used at all; `why` is one line."""

    why: str


def probe() -> LlamaBuild | BrokenBuild:
    """Import llama.cpp in a child process and ask it. Takes about a second, on a GPU more."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", _PROGRAM], capture_output=True, timeout=_SECONDS, check=False
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
        build = msgspec.json.decode(child.stdout.strip().splitlines()[-1], type=LlamaBuild)
    except (IndexError, msgspec.MsgspecError):
        return BrokenBuild("its answer cannot be read")
    said = child.stderr.decode(errors="replace").splitlines()
    build.said = "; ".join(line.strip() for line in said if _COMPLAINT.search(line))
    return build
