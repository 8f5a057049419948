"""The routes for those who look after the appliance: models, health, metrics, status."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from edge import __version__, metrics
from edge.api.http.crowd import Crowd
from edge.api.http.doorman import visitor_of
from edge.config.place import state_dir
from edge.config.tree import targets
from edge.errors import ModelNotFound
from edge.fleet.gauges import measure
from edge.fleet.model import Model
from edge.host import gauges
from edge.inference import status
from edge.service import Service
from edge.store.usage import DayUsage
from edge.switching.switches import Switches


def ops_routes(service: Service, switches: Switches) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", tags=["models"])
    async def models() -> JSONResponse:
        """The models that are installed and the routes, in OpenAI's form."""
        names = dict.fromkeys([*service.router.models, *_with_a_task(service)])
        data = [_model(service, name) for name in names]
        return JSONResponse({"object": "list", "data": data})

    @router.get("/v1/models/{name}", tags=["models"])
    async def model(name: str) -> JSONResponse:
        """One of them, or 404."""
        known = name in service.config.routes or service.fleet.find(name) is not None
        if not known and name not in _with_a_task(service):
            raise ModelNotFound(f"the model `{name}` is not served here", param="model")
        return JSONResponse(_model(service, name))

    @router.get("/health", tags=["health"])
    async def health() -> JSONResponse:
        """The daemon is alive. It says nothing about models."""
        return JSONResponse({"status": "ok"})

    @router.get("/health/ready", tags=["health"])
    async def ready() -> JSONResponse:
        """200 when every model that is to be loaded can answer now, else 503; with all states."""
        states = {model.name: model.state for model in service.fleet.models()}
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
        measure(service.fleet, service.metrics)
        status.measure(service.onnx.status(), service.metrics)
        gauges.measure(service.sensors.facts(), service.metrics)
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    @router.get("/v1/usage", tags=["models"])
    async def usage(http: Request) -> JSONResponse:
        """What the caller's key has used on this day (UTC) and on the 31 before, and its limits."""
        visitor = visitor_of(http)
        days = await visitor.days()
        account, key = visitor.account, visitor.key
        return JSONResponse(
            {
                "object": "usage",
                "key": visitor.name,
                "day": account.day,
                "requests": account.requests,
                "running": account.running,
                "prompt_tokens": account.prompt_tokens,
                "completion_tokens": account.completion_tokens,
                "limits": None if key is None else msgspec.to_builtins(key.quota),
                "days": [_day(day) for day in days],
            }
        )

    @router.get("/admin/v1/status", tags=["admin"])
    async def everything(http: Request) -> JSONResponse:
        """What `edge status` shows: the device, its models and their books, its upstreams."""
        device = service.config.device
        return JSONResponse(
            {
                "version": __version__,
                "state_dir": str(state_dir().resolve()),
                "device": {"id": device.id, "site": device.site},
                "audit": None if service.audit is None else service.audit.head,
                "uptime_seconds": round(time.time() - service.started_at, 1),
                "limits": _limits(service, http.app.state.crowd),
                "models": [
                    _status(model) | {"switch": msgspec.to_builtins(switches.last(model.name))}
                    for model in service.fleet.models()
                ],
                "configuration": msgspec.to_builtins(service.reloads),
                "onnx": msgspec.to_builtins(service.onnx.status()),
                "upstreams": [msgspec.to_builtins(cloud.facts()) for cloud in service.clouds],
                "host": msgspec.to_builtins(service.sensors.facts()),
            }
        )

    return router


def _day(used: DayUsage) -> dict[str, Any]:
    return {
        "day": used.day,
        "requests": used.requests,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
    }


def _limits(service: Service, crowd: Crowd) -> dict[str, Any]:
    """What the daemon itself holds, and how much of it it may."""
    return {
        "memory": msgspec.to_builtins(service.ceiling.facts),
        "connections": crowd.size,
        "max_connections": crowd.limits.max_connections,
        "addresses": crowd.addresses,
    }


def _with_a_task(service: Service) -> list[str]:
    """Folders that say what they are for; those that take tensors are /v2's alone."""
    tasks = {name: service.onnx.task_of(name) for name in service.onnx.names()}
    return [name for name, task in tasks.items() if task not in (None, "tensors")]


def _model(service: Service, name: str) -> dict[str, Any]:
    """A model that is here, or a route, which names its targets. Of a model that is not loaded
    nothing is told but that it is there."""
    if name in service.config.routes:
        where = {"targets": targets(service.config, name)}
        return _entry(name, int(service.started_at), where)
    model, path = service.fleet.find(name), service.fleet.path(name)
    if model is None and name in _with_a_task(service):
        folder = service.onnx.folder(name)
        return _entry(name, int(folder.path.stat().st_mtime), {"task": folder.manifest.task})
    facts = model.runner.facts if model is not None and model.runner is not None else None
    meta: dict[str, Any] | None = None
    if facts is not None:
        meta = {
            "n_vocab": facts.vocab,
            "n_ctx": facts.context,
            "n_ctx_train": facts.train_context,
            "n_params": facts.parameters,
            "size": facts.size_bytes,
        }
    there = path is not None and path.exists()
    return _entry(name, int(path.stat().st_mtime) if path is not None and there else 0, meta)


def _entry(name: str, created: int, meta: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "edge", "meta": meta}


def _status(model: Model) -> dict[str, Any]:
    runner = model.runner
    error = model.error or (runner.error if runner is not None else None)
    known = {
        "name": model.name,
        "state": model.state,
        "pinned": model.pinned,
        "waiting": len(model.waiters),
        "error": error.message if error else None,
    }
    if runner is None:
        return {**known, "restarts": 0, "pid": None, "facts": None, "memory": None, "stats": None}
    return {
        **known,
        "restarts": runner.restarts,
        "pid": runner.pid,
        "facts": msgspec.to_builtins(runner.facts),
        "memory": msgspec.to_builtins(runner.memory),
        # Array-like on the wire between processes, an object for people.
        "stats": msgspec.structs.asdict(runner.stats) if runner.stats else None,
    }
