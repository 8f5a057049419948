"""The routes to the queue for those who look after the appliance: /admin/v1/jobs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from edge.errors import InvalidRequest
from edge.jobs.dispatcher import Dispatcher
from edge.store.job import STATES, JobFacts


def job_routes(dispatcher: Dispatcher) -> APIRouter:
    router = APIRouter(prefix="/admin/v1/jobs", tags=["admin"])

    @router.get("")
    async def jobs(
        state: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: str | None = None,
    ) -> JSONResponse:
        """The latest first; `after` is the last id of the page before."""
        if state is not None and state not in STATES:
            raise InvalidRequest(f"a state is one of {', '.join(STATES)}", param="state")
        found = await dispatcher.recent(state, limit, after)
        return JSONResponse({"jobs": [_facts(job) for job in found]})

    @router.get("/{job_id}")
    async def job(job_id: str) -> JSONResponse:
        """One job with its request and its result."""
        return JSONResponse(await _shown(job_id))

    @router.post("/{job_id}/cancel")
    async def cancel(job_id: str) -> JSONResponse:
        """Stop it; `changed` is false if it had ended before."""
        changed = await dispatcher.cancel(job_id)
        return JSONResponse({"changed": changed, **await _shown(job_id)})

    @router.post("/{job_id}/retry")
    async def retry(job_id: str) -> JSONResponse:
        """Queue a failed job again; `changed` is false if it has not failed."""
        changed = await dispatcher.retry(job_id)
        return JSONResponse({"changed": changed, **await _shown(job_id)})

    async def _shown(job_id: str) -> dict[str, Any]:
        job = await dispatcher.get(job_id)
        shown = _facts(job) | {"request": dispatcher.kinds.shown(job), "result": None}
        if job.result is not None:
            shown["result"] = msgspec.json.decode(job.result)
        if job.state == "queued":
            shown["position"] = await dispatcher.position(job_id)
            shown["obstacle"] = dispatcher.kinds.obstacle(job)
        return shown

    return router


def _facts(job: JobFacts) -> dict[str, Any]:
    fields = msgspec.structs.fields(JobFacts)
    return {field.name: getattr(job, field.name) for field in fields}
