"""`GET /admin/v1/status` as commands read it: what an older daemon does not tell is left out."""

from __future__ import annotations

import msgspec

from edge.ceiling import MemoryFacts
from edge.config.live import Reloads
from edge.energy.status import EnergyFacts
from edge.heat.governor import HeatFacts
from edge.host.sensors import HostFacts
from edge.inference.status import OnnxStatus
from edge.jobs.backlog import Backlog
from edge.runtime.guard import MemoryRecord
from edge.switching.switch import Progress
from edge.types import BrokerFacts, ModelFacts, UpstreamFacts
from edge.updates.record import Entry


class ModelStatus(msgspec.Struct):
    """One model as the daemon reports it. `stats` has the names of `edge.types.EngineStats`.
    waiting: requests that wait for it to be loaded."""

    name: str
    state: str
    error: str | None = None
    restarts: int = 0
    pinned: bool = False
    waiting: int = 0
    facts: ModelFacts | None = None
    stats: dict[str, int] | None = None
    memory: MemoryRecord | None = None
    switch: Progress | None = None

    @property
    def on_gpu(self) -> bool:
        """True only where layers are offloaded: a build for a GPU alone computes on the CPU."""
        return self.facts is not None and self.facts.gpu_layers > 0

    @property
    def back_end(self) -> str:
        """What computes: `CPU`, `CUDA, 20 of 33 layers`, or `-` before it is known."""
        if self.facts is None:
            return "-"
        if not self.on_gpu:
            return "CPU"
        found = (
            f"{self.facts.backend.upper()}, {self.facts.gpu_layers} of {self.facts.layers} layers"
        )
        whole = self.facts.gpu_layers >= self.facts.layers
        left = ", ".join(self.facts.left_on_cpu) if whole else ""
        return f"{found}; on the CPU: {left}" if left else found


class DeviceStatus(msgspec.Struct):
    id: str
    site: str


class LimitsStatus(msgspec.Struct):
    """What the daemon itself holds. addresses: that it has connections from."""

    memory: MemoryFacts
    connections: int
    max_connections: int
    addresses: int


class Status(msgspec.Struct):
    version: str
    device: DeviceStatus
    uptime_seconds: float
    models: list[ModelStatus]
    onnx: OnnxStatus | None = None
    heat: HeatFacts | None = None
    host: HostFacts | None = None
    energy: EnergyFacts | None = None
    upstreams: list[UpstreamFacts] = []
    queue: Backlog | None = None
    broker: BrokerFacts | None = None
    limits: LimitsStatus | None = None
    state_dir: str | None = None
    configuration: Reloads = Reloads()
    update: Entry | None = None
