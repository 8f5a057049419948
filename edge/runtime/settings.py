"""What a worker is told of the configuration, with `auto` answered from what the machine is."""

from __future__ import annotations

import msgspec

from edge.config.models import Engine
from edge.engine.footprint import embedder_tokens
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


def embedder_settings(found: EngineSettings, trained: int) -> EngineSettings:
    """The same for a model that embeds, which has neither slots nor prefixes. trained: its context
    in tokens."""
    tokens = embedder_tokens(found.context, trained)
    return msgspec.structs.replace(
        found,
        embeds=True,
        slots=1,
        context=tokens,
        kv_type="f16",
        batch=tokens,
        draft="none",
        prefix_bytes=0,
        prefix_disk_bytes=0,
    )
