"""From a request to a job, with everything refused that can be found wrong with it now."""

from __future__ import annotations

import time

import msgspec

from edge.chains import body as chain_body
from edge.chains.body import ChainBody
from edge.chains.chains import Chains
from edge.errors import InvalidRequest, NoRoute
from edge.jobs import chaining, inferring
from edge.jobs.inferring import InferBody
from edge.openai import ask
from edge.openai.ask import Body
from edge.openai.embeddings import EmbeddingBody, embedding_work
from edge.openai.schema import EdgeOptions
from edge.service import Service
from edge.store.job import Door, NewJob, new_id

PICTURE_TASKS = ("classify", "detect", "read")


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


def infer_job(
    service: Service,
    model: str,
    body: InferBody,
    options: EdgeOptions,
    *,
    client: str,
    door: Door,
    job_id: str,
    target: bytes | None,
) -> NewJob:
    """The same for one to a model of tensors or pictures. Raises `InvalidRequest`,
    `ModelNotFound` and `BadModelFile`."""
    _check_route(options)
    check_task(service, model, picture=body.picture is not None)
    return NewJob(
        id=job_id,
        line=inferring.line_of(model),
        client=client,
        door=door,
        kind="infer",
        request=inferring.encode_body(body),
        priority=options.priority,
        deadline=_due(options),
        target=target,
    )


def embed_job(
    service: Service,
    model: str,
    body: EmbeddingBody,
    *,
    client: str,
    door: Door,
    job_id: str,
    target: bytes | None,
) -> NewJob:
    """The same for one for vectors of texts. model: that `service.texts` has chosen for it.

    Raises `InvalidRequest` and `NoRoute`.
    """
    options = body.edge or EdgeOptions()
    _check_route(options)
    embedding_work(body)
    line = f"auto {model}" if service.texts.is_file(model) else inferring.line_of(model)
    return NewJob(
        id=job_id,
        line=line,
        client=client,
        door=door,
        kind="embed",
        request=msgspec.json.encode(body),
        priority=options.priority,
        deadline=_due(options),
        target=target,
    )


def chain_job(
    chains: Chains,
    name: str,
    body: ChainBody,
    *,
    client: str,
    door: Door,
    job_id: str,
    target: bytes | None,
) -> NewJob:
    """The same for one to a chain. Raises `InvalidRequest`, `ModelNotFound` and `NoRoute`."""
    chains.check(name, body)
    return NewJob(
        id=job_id,
        line=chaining.line_of(name),
        client=client,
        door=door,
        kind="chain",
        request=chain_body.encode(body),
        priority=body.options.priority,
        deadline=_due(body.options),
        target=target,
    )


def check_task(service: Service, model: str, *, picture: bool) -> None:
    """That the model is here, and that it is for pictures where it gets one.

    Raises `ModelNotFound`, `BadModelFile` and `InvalidRequest`.
    """
    task = service.onnx.folder(model).manifest.task
    if picture and task not in PICTURE_TASKS:
        raise InvalidRequest(
            f"`{model}` takes no pictures: its task is `{task}`",
            hint="`task` in its model.yaml tells what a model is for",
        )


def _check_route(options: EdgeOptions) -> None:
    if options.route == "cloud":
        raise NoRoute("what does not generate is computed here", param="edge.route")


def _due(options: EdgeOptions) -> float | None:
    """Epoch seconds."""
    return None if options.deadline_ms is None else time.time() + options.deadline_ms / 1000
