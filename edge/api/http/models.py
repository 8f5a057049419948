"""The routes that list the models, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from edge.config.tree import targets
from edge.errors import ModelNotFound
from edge.service import Service


def model_routes(service: Service) -> APIRouter:
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

    return router


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
