"""Which command would make an installed model faster on this machine, as far as that is known."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import board, cpu, gpu
from edge.modelstore.store import Installed, ModelStore
from edge.tuning.kernels import may_gain, packed_by_processor

ROOT = Path("/")


class Advice(msgspec.Struct, frozen=True):
    finding: str
    command: str


def packed_here(root: Path = ROOT) -> frozenset[str]:
    """Types of weights that llama.cpp lays out anew here, without asking its build; none where a
    GPU computes."""
    if board.is_jetson(root) or gpu.has_nvidia_gpu(root):
        return frozenset()
    return packed_by_processor(cpu.features(root) or frozenset())


def advice(
    store: ModelStore, model: Installed, file_type: str | None, packed: frozenset[str]
) -> Advice | None:
    """To use what was made of this version here, or to make something; None where all is well.

    What was copied in by hand has no versions, so that nothing can be made beside it.
    """
    if model.version is None:
        return None
    for one in store.versions(model.name):
        measured = one.manifest.measured if one.manifest else None
        if measured and measured.against == model.version and measured.machine == cpu.model():
            kind = one.manifest.quantization if one.manifest else None
            return Advice(
                f"{one.name}@{one.version} ({kind}) was {measured.speed:.1f} times as fast here, "
                f"with {measured.agreement:.0%} of the tokens the same",
                f"edge models use {one.name}@{one.version}",
            )
    if not may_gain(file_type or "", packed):
        return None
    return Advice(
        f"{file_type} is not among the types that this processor computes fastest",
        f"edge models optimize {model.name}",
    )
