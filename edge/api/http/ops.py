"""The routes for those who look after the appliance: health, metrics, status."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from edge import __version__, metrics
from edge.api.http.crowd import Crowd
from edge.config.place import state_dir
from edge.energy import status as energy
from edge.errors import StoreBroken, StoreFull
from edge.fleet.gauges import measure
from edge.fleet.model import Model
from edge.host import gauges
from edge.inference import status
from edge.jobs.backlog import BacklogReader
from edge.service import Service
from edge.switching.switches import Switches


def ops_routes(service: Service, switches: Switches, backlog: BacklogReader) -> APIRouter:
    router = APIRouter()

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
        energy.measure(service.energy, service.metrics)
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    @router.get("/admin/v1/status", tags=["admin"])
    async def everything(http: Request) -> JSONResponse:
        """What `edge status` shows: the device, its models, queues, broker and upstreams."""
        device = service.config.device
        return JSONResponse(
            {
                "version": __version__,
                "state_dir": str(state_dir().resolve()),
                "device": {"id": device.id, "site": device.site},
                "audit": None if service.audit is None else service.audit.head,
                "update": msgspec.to_builtins(service.updates.last),
                "uptime_seconds": round(time.time() - service.started_at, 1),
                "limits": _limits(service, http.app.state.crowd),
                "models": [
                    _status(model) | {"switch": msgspec.to_builtins(switches.last(model.name))}
                    for model in service.fleet.models()
                ],
                "configuration": msgspec.to_builtins(service.reloads),
                "queue": await _queue(backlog),
                "broker": msgspec.to_builtins(service.broker),
                "onnx": msgspec.to_builtins(service.onnx.status()),
                "upstreams": [msgspec.to_builtins(cloud.facts()) for cloud in service.clouds],
                "heat": msgspec.to_builtins(service.heat.facts),
                "host": msgspec.to_builtins(service.sensors.facts()),
                "energy": msgspec.to_builtins(energy.facts_of(service.energy)),
            }
        )

    return router


async def _queue(backlog: BacklogReader) -> Any:
    """Whoever looks after a broken ledger has to see the rest of the page, and no zeros here."""
    try:
        return msgspec.to_builtins(await backlog.read())
    except (StoreBroken, StoreFull) as error:
        return {"error": error.message}


def _limits(service: Service, crowd: Crowd) -> dict[str, Any]:
    """What the daemon itself holds, and how much of it it may."""
    return {
        "memory": msgspec.to_builtins(service.ceiling.facts),
        "connections": crowd.size,
        "max_connections": crowd.limits.max_connections,
        "addresses": crowd.addresses,
    }


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
