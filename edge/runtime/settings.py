"""What a worker is told of the configuration, with `auto` answered from what the machine is."""

from __future__ import annotations

from edge.config import Engine
from edge.types import EngineSettings

MB = 1024 * 1024

KV_SHARE = 0.25
"""Part of the available memory that an automatic number of slots may take."""

PREFIX_SHARE = 1 / 16
"""The same for computed prefixes that left their slot."""


def engine_settings(engine: Engine, cores: int, available_bytes: float) -> EngineSettings:
    """cores: physical ones that the process may use. available_bytes: memory for this model."""
    prefix_mb = engine.prefix_cache_mb
    prefix_bytes = available_bytes * PREFIX_SHARE if prefix_mb == "auto" else prefix_mb * MB
    return EngineSettings(
        backend=engine.backend,
        threads=cores if engine.threads == "auto" else engine.threads,
        gpu_layers=None if engine.gpu_layers == "auto" else engine.gpu_layers,
        slots=0 if engine.slots == "auto" else engine.slots,
        context=0 if engine.context == "auto" else engine.context,
        kv_type=engine.kv_type,
        batch=engine.batch,
        kv_budget_bytes=int(available_bytes * KV_SHARE),
        draft=engine.draft,
        inter_token_ms=None if engine.inter_token_ms == "auto" else engine.inter_token_ms,
        prefix_bytes=int(prefix_bytes),
    )
