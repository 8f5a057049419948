"""From a request to a job, with everything refused that can be found wrong with it now."""

from __future__ import annotations

import time

from edge.openai import ask
from edge.openai.ask import Body
from edge.service import Service
from edge.store.job import Door, NewJob, new_id


def new_job(
    service: Service,
    body: Body,
    *,
    client: str,
    door: Door,
    job_id: str | None = None,
    target: bytes | None = None,
) -> NewJob:
    """The job for a request that is to be kept.

    Raises `InvalidRequest`, `ModelNotFound` and `NoRoute`.
    """
    job_id = job_id or new_id()
    request, _ = ask.ask(body, job_id)
    service.check(request)
    return NewJob(
        id=job_id,
        line=service.router.line(request),
        client=client,
        door=door,
        kind=ask.kind_of(body),
        request=ask.encode(body),
        priority=request.priority,
        deadline=None if request.deadline is None else time.time() + request.deadline,
        target=target,
    )
