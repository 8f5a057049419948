"""Whether there is a GPU that llama.cpp should be using."""

from __future__ import annotations

from pathlib import Path

from edge.host import kernel


def is_jetson(root: Path = Path("/")) -> bool:
    """True on NVIDIA's embedded boards; carrier boards rename the model but keep the release."""
    board = kernel.text(root / "proc/device-tree/model") or ""
    return "jetson" in board.lower() or (root / "etc/nv_tegra_release").exists()


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """True where NVIDIA's driver shows a card."""
    return (root / "dev/nvidia0").exists() or (root / "proc/driver/nvidia").exists()
