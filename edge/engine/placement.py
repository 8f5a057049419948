"""Where llama.cpp put a model, told from what it says while it loads one: it has no call for that.

Its own count of layers is what it was asked for, also where no device took any
(https://github.com/ggml-org/llama.cpp/issues/1866 has such a log); so a layer counts as on a GPU
only if there are buffers of one. What is left on the CPU of a model whose layers are all on a GPU
is told too: it makes each step wait for the slower of the two.
"""

from __future__ import annotations

import re
from collections import Counter

import msgspec

_BUFFER = re.compile(r"(\S+) (model|KV|compute) buffer size = +([\d.]+) MiB")
_LAYERS = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_SPLITS = re.compile(r"splits = (\d+)(?: / (\d+))?")
_ATTENTION = re.compile(r"Flash Attention (enabled|not supported)|(enabling) flash_attn")
_HOST = re.compile(r"^(CPU|AMX|BLAS|ZenDNN|\w+_Host$|\w+_Mapped$)")
"""Buffers in the main memory: those of the CPU, and what a GPU's driver has pinned for it."""

_FEW_SPLITS = 2
"""Parts of a step where all layers are on a GPU: the tokens are looked up on the CPU, all the rest
is the GPU's."""

MIB = 1 << 20


class Placed(msgspec.Struct):
    """layers, of: on a GPU, and how many could be: one more than the model has, the output being
    one too. device: whose buffers hold them, empty for the CPU. device_bytes: in its buffers.
    copied_bytes: weights that are not read from the file's pages. flash_attention: as it is
    computed. cpu: what a model on a GPU left on the CPU, in words.
    """

    layers: int
    of: int
    device: str
    device_bytes: int
    copied_bytes: int
    flash_attention: bool
    cpu: list[str]


class Placement:
    """Hears one line of the log after the other, from `begin` on."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """What comes is about another model."""
        self._sizes: Counter[tuple[str, str]] = Counter()
        self._layers, self._of, self._splits = 0, 0, 0
        self._flash = False

    def hear(self, line: str) -> None:
        if found := _BUFFER.search(line):
            self._sizes[found[1], found[2]] += int(float(found[3]) * MIB)
        elif found := _LAYERS.search(line):
            self._layers, self._of = int(found[1]), int(found[2])
        elif "graph" in line and (found := _SPLITS.search(line)):
            self._splits = int(found[2] or found[1])
        elif found := _ATTENTION.search(line):
            self._flash = found[1] != "not supported"

    def told(self) -> Placed:
        """What is known so far."""
        on_device = {key: size for key, size in self._sizes.items() if not _HOST.match(key[0])}
        weights = [name for name, what in on_device if what == "model"]
        layers = self._layers if weights else 0
        return Placed(
            layers=layers,
            of=self._of,
            device=", ".join(dict.fromkeys(weights)),
            device_bytes=sum(on_device.values()),
            copied_bytes=sum(
                size
                for (name, what), size in self._sizes.items()
                if what == "model" and not name.endswith("_Mapped")
            ),
            flash_attention=self._flash,
            cpu=self._left(layers, {what for _, what in on_device}) if layers else [],
        )

    def _left(self, layers: int, on_device: set[str]) -> list[str]:
        """A part of the layers explains all the rest."""
        if layers < self._of:
            return [f"{self._of - layers} of {self._of} layers"]
        left = []
        if any(what == "KV" for _, what in self._sizes) and "KV" not in on_device:
            left.append("the KV cache")
        if self._splits > _FEW_SPLITS:
            left.append(f"parts of each step, which is cut into {self._splits}")
        return left
