"""The routes for those who look after the appliance: models, health, metrics, status."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from edge import __version__, metrics
from edge.config import targets
from edge.errors import ModelNotFound
from edge.runtime.runner import ModelRunner
from edge.service import Service


def ops_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", tags=["models"])
    async def models() -> JSONResponse:
        """The models that are served here, in OpenAI's form."""
        data = [_model(service, name) for name in service.router.models]
        return JSONResponse({"object": "list", "data": data})

    @router.get("/v1/models/{name}", tags=["models"])
    async def model(name: str) -> JSONResponse:
        """One of them, or 404."""
        if name not in service.router.models:
            raise ModelNotFound(f"the model `{name}` is not served here", param="model")
        return JSONResponse(_model(service, name))

    @router.get("/health", tags=["health"])
    async def health() -> JSONResponse:
        """The daemon is alive. It says nothing about models."""
        return JSONResponse({"status": "ok"})

    @router.get("/health/ready", tags=["health"])
    async def ready() -> JSONResponse:
        """200 when every served model can answer now, else 503 with their states."""
        states = {runner.name: runner.state for runner in service.runners.values()}
        if service.ready:
            return JSONResponse({"status": "ready", "models": states})
        return JSONResponse(
            {"status": "not ready", "models": states},
            status_code=503,
            headers={"Retry-After": "1"},
        )

    @router.get("/metrics", tags=["health"])
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        service.measure_models()
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    @router.get("/admin/v1/status", tags=["admin"])
    async def status() -> JSONResponse:
        """What `edge status` shows: the device, its models and their books, its upstreams."""
        device = service.config.device
        return JSONResponse(
            {
                "version": __version__,
                "device": {"id": device.id, "site": device.site},
                "uptime_seconds": round(time.time() - service.started_at, 1),
                "models": [_status(runner) for runner in service.runners.values()],
                "upstreams": [msgspec.to_builtins(cloud.facts()) for cloud in service.clouds],
            }
        )

    return router


def _model(service: Service, name: str) -> dict[str, Any]:
    """A model that is here, or a route, which names its targets."""
    runner = service.runners.get(name)
    if runner is None:
        where = {"targets": targets(service.config, name)}
        return _entry(name, int(service.started_at), where)
    facts = runner.facts
    meta: dict[str, Any] | None = None
    if facts is not None:
        meta = {
            "n_vocab": facts.vocab,
            "n_ctx": facts.context,
            "n_ctx_train": facts.train_context,
            "n_params": facts.parameters,
            "size": facts.size_bytes,
        }
    return _entry(name, int(runner.path.stat().st_mtime) if runner.path.exists() else 0, meta)


def _entry(name: str, created: int, meta: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "edge", "meta": meta}


def _status(runner: ModelRunner) -> dict[str, Any]:
    return {
        "name": runner.name,
        "state": runner.state,
        "error": runner.error.message if runner.error else None,
        "restarts": runner.restarts,
        "pid": runner.pid,
        "facts": msgspec.to_builtins(runner.facts),
        # Array-like on the wire between processes, an object for people.
        "stats": msgspec.structs.asdict(runner.stats) if runner.stats else None,
    }
