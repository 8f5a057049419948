"""Kept requests that are no chats: pictures, tensors and chains, on a real ledger before a service
that answers as the test says."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from fake_service import FakeService, at_once, dispatching, failing, never, until

from edge.chains import body as chain_body
from edge.chains.body import ChainBody
from edge.chains.chains import Chains
from edge.config.answering import Chain
from edge.config.tree import Config
from edge.errors import (
    BadModelFile,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    WorkerCrashed,
)
from edge.jobs.dispatcher import Dispatcher
from edge.jobs.inferring import InferBody
from edge.jobs.intake import chain_job, infer_job
from edge.openai.schema import EdgeOptions
from edge.store.job import Job
from edge.tensors import Detection, Inferred, PictureWork, Sighting, Tensor, TensorResult
from edge.types import ChatPrompt

PICTURE = b"\xff\xd8\xff" + bytes(range(256))
BOLT = Detection("bolt", 0.9, 0, (1.0, 2.0, 3.0, 4.0))
SEEN = Inferred(Sighting(64, 48, detections=[BOLT]), "eye", 1, 0.01, 1)
REPORT = Chain(
    see="eye",
    prompt="{{ detections | length }} {{ detections[:1] | map(attribute='label') | join }}"
    " on part {{ part }}",
    fields={"part": None},
    system="Be short.",
    max_tokens=9,
    threshold=0.5,
)
CONFIG = Config(chains={"report": REPORT})


def picture(service: FakeService, model: str = "eye", **options: Any) -> Any:
    body = InferBody(PictureWork(PICTURE, top_k=3))
    origin = {"client": "c", "door": "mqtt", "job_id": f"{time.time_ns()}", "target": b"t"}
    return infer_job(service, model, body, EdgeOptions(**options), **origin)  # type: ignore[arg-type]


def report(service: FakeService, part: Any = "AX", name: str = "report", **options: Any) -> Any:
    body = ChainBody(PICTURE, {"part": part}, EdgeOptions(**options))
    chains = Chains(service)  # type: ignore[arg-type]
    origin: Any = {"client": "c", "door": "mqtt", "job_id": f"{time.time_ns()}", "target": b"t"}
    return chain_job(chains, name, body, **origin)


async def outcome(dispatcher: Dispatcher, new: Any) -> Job:
    job = await dispatcher.add(new)
    return await asyncio.wait_for(dispatcher.finished(job.id), 10)


async def test_a_picture(tmp_path: Path) -> None:
    """The bytes that came are the bytes that are looked at, with the priority and what is left of
    the deadline; what was seen is the result."""
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        service.onnx.seen = [SEEN]
        new = picture(service, priority="critical", deadline_ms=60_000)
        assert (new.kind, new.line) == ("infer", "infer eye")
        job = await outcome(dispatcher, new)
        shown = dispatcher.kinds.shown(job)
    assert job.state == "done"
    (asked,) = service.onnx.inferences
    assert (asked.id, asked.model, asked.priority, asked.kept) == (job.id, "eye", "critical", True)
    assert asked.work == PictureWork(PICTURE, top_k=3)
    assert 50 < (asked.deadline or 0) - time.monotonic() <= 60
    answer = json.loads(job.result or b"")
    assert answer["detections"] == [
        {"label": "bolt", "score": 0.9, "number": 0, "box": [1.0, 2.0, 3.0, 4.0]}
    ]
    assert (answer["model"], answer["edge"]["route"]) == ("eye", "local")
    assert json.loads(json.dumps(shown)) == {
        "data": f"{len(PICTURE)} bytes",
        "top_k": 3,
        "type": "picture",
    }


async def test_tensors(tmp_path: Path) -> None:
    """A body of the Open Inference Protocol, answered in its form."""
    total = Tensor("sum", "FP32", [1], struct.pack("<f", 3.0))
    given = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    body = InferBody(tensors=json.dumps({"inputs": [given]}).encode())
    origin: Any = {"client": "c", "door": "mqtt", "job_id": "1", "target": b"t"}
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        service.onnx.seen = [Inferred(TensorResult([total]), "sums", 2, 0.01, 1)]
        new = infer_job(service, "sums", body, EdgeOptions(), **origin)  # type: ignore[arg-type]
        job = await outcome(dispatcher, new)
        assert dispatcher.kinds.shown(job) == {"tensors": f"{len(body.tensors)} bytes"}
    answer = json.loads(job.result or b"")
    assert answer["outputs"] == [{"name": "sum", "datatype": "FP32", "shape": [1], "data": [3.0]}]
    assert (answer["model"], answer["model_name"], answer["model_version"]) == ("sums", "sums", "2")
    (asked,) = service.onnx.inferences
    assert asked.work.inputs == [Tensor("x", "FP32", [2], struct.pack("<2f", 1, 2))]  # type: ignore[union-attr]


async def test_what_cannot_be_kept(tmp_path: Path) -> None:
    """Refused before it is on disk, with what is wrong."""
    async with dispatching(tmp_path, at_once, config=CONFIG) as (_, service):
        with pytest.raises(ModelNotFound, match="eye, sums"):
            picture(service, "nose")
        with pytest.raises(InvalidRequest, match="`sums` takes no pictures: its task is `tensors`"):
            picture(service, "sums")
        with pytest.raises(ModelNotFound, match="there are: report"):
            report(service, name="rapport")
        with pytest.raises(InvalidRequest) as refused:
            report(service, part=None)
        assert refused.value.param == "part"
        del service.onnx.tasks["eye"]
        with pytest.raises(ModelNotFound, match="`eye`, which looks at the picture"):
            report(service)


async def test_a_chain(tmp_path: Path) -> None:
    """What was seen and what was sent along are in the prompt; both are in the answer."""
    async with dispatching(tmp_path, at_once, config=CONFIG) as (dispatcher, service):
        service.onnx.seen = [SEEN]
        new = report(service, "{{ width }}", priority="batch", deadline_ms=60_000)
        assert (new.kind, new.line) == ("chain", "chain report")
        job = await outcome(dispatcher, new)
        shown = dispatcher.kinds.shown(job)
    (seen,), (asked,) = service.onnx.inferences, service.requests
    assert seen.work == PictureWork(PICTURE, threshold=0.5)
    assert seen.priority == asked.priority == "batch"
    assert seen.kept
    assert asked.kept
    assert 50 < (seen.deadline or 0) - time.monotonic() <= 60
    assert 50 < (asked.deadline or 0) <= 60
    assert (asked.max_tokens, asked.sampling.temperature) == (9, 0)
    (prompt,) = asked.prompts
    assert isinstance(prompt, ChatPrompt)
    turns = [(turn.role, turn.content) for turn in prompt.messages]
    assert turns == [("system", "Be short."), ("user", "1 bolt on part {{ width }}")]
    answer = json.loads(job.result or b"")
    assert (answer["chain"], answer["text"], answer["model"]) == ("report", "Hello", "small")
    assert answer["sighting"]["detections"][0]["label"] == "bolt"
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["edge"]["model"] == "small"
    told = json.loads(json.dumps(shown))
    assert (told["image"], told["part"]) == (f"{len(PICTURE)} bytes", "{{ width }}")


@pytest.mark.parametrize("half", ["looks at the picture", "writes the text"])
async def test_an_error_tells_which_half(tmp_path: Path, half: str) -> None:
    """With the code that it has by itself."""
    seeing = half == "looks at the picture"
    behaviour = at_once if seeing else failing(WorkerCrashed("dead"))
    async with dispatching(tmp_path, behaviour, config=CONFIG) as (dispatcher, service):
        service.onnx.seen = [BadModelFile("broken") if seeing else SEEN]
        job = await outcome(dispatcher, report(service))
    assert (job.state, job.error_code) == (
        "failed",
        "bad_model_file" if seeing else "worker_crashed",
    )
    assert half in (job.error_message or "")


async def test_what_time_may_mend(tmp_path: Path) -> None:
    """Either half sends the whole back to the queue, and it begins with its picture again."""
    errors = [Overloaded("full", retry_after=0.01), ModelLoading("soon", retry_after=0.01)]
    behaviour = failing(Overloaded("full", retry_after=0.01))
    async with dispatching(tmp_path, behaviour, config=CONFIG) as (dispatcher, service):
        service.onnx.seen = [*errors, SEEN, SEEN]
        job = await outcome(dispatcher, report(service))
    assert (job.state, job.attempts) == ("done", 1)
    assert len(service.onnx.inferences) == 4
    assert len(service.requests) == 2


async def test_death_between_the_halves(tmp_path: Path) -> None:
    """The next start runs all of it, from the picture that was kept."""
    async with dispatching(tmp_path, never, config=CONFIG) as (dispatcher, service):
        service.onnx.seen = [SEEN]
        job = await dispatcher.add(report(service))
        await until(lambda: service.live)
    async with dispatching(tmp_path, at_once, config=CONFIG) as (dispatcher, service):
        service.onnx.seen = [SEEN]
        job = await asyncio.wait_for(dispatcher.finished(job.id), 10)
        assert job.state == "done"
        assert service.onnx.inferences[0].work == PictureWork(PICTURE, threshold=0.5)


async def test_cancelling_a_chain(tmp_path: Path) -> None:
    """While it writes: the work ends."""
    async with dispatching(tmp_path, never, config=CONFIG) as (dispatcher, service):
        service.onnx.seen = [SEEN]
        job = await dispatcher.add(report(service))
        await until(lambda: service.live)
        assert await dispatcher.cancel(job.id)
        assert (await dispatcher.finished(job.id)).state == "cancelled"
        await until(lambda: not service.live)


async def test_whom_a_line_waits_for(tmp_path: Path) -> None:
    """Pictures for their model; chains for both of theirs; chats for none of that."""
    async with dispatching(tmp_path, at_once, slots=0, config=CONFIG) as (dispatcher, service):
        kinds = dispatcher.kinds
        seeing, writing = (
            await dispatcher.add(picture(service)),
            await dispatcher.add(report(service)),
        )
        service.onnx.room = 0
        assert kinds.place("infer eye", "normal") is service.onnx
        assert kinds.place("chain report", "normal") is service
        assert (kinds.loading(seeing), kinds.loading(writing)) == (None, None)
        service.onnx.at_hand = False
        assert (kinds.loading(seeing), kinds.loading(writing)) == ("eye", "eye")
        service.onnx.refusal = BadModelFile("broken")
        assert kinds.place("infer eye", "normal") is None
        assert kinds.place("chain report", "normal") is None
        assert (kinds.obstacle(seeing), kinds.obstacle(writing)) == ("broken", "broken")
        assert kinds.place("auto small", "normal") is service
        service.onnx.refusal = None
        service.closed.add(f"auto {CONFIG.models.default}")
        assert kinds.place("infer eye", "normal") is service.onnx
        assert kinds.place("chain report", "normal") is None


async def test_what_nobody_knows_any_more(tmp_path: Path) -> None:
    """A model or a chain that was taken away: its jobs fail, and do not wait for ever."""
    async with dispatching(tmp_path, at_once, slots=0, config=CONFIG) as (dispatcher, service):
        service.onnx.room = 0
        jobs = [await dispatcher.add(picture(service)), await dispatcher.add(report(service))]
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        del service.onnx.tasks["eye"]
        service.onnx.seen = [ModelNotFound("no eye")]
        ended = [await asyncio.wait_for(dispatcher.finished(job.id), 10) for job in jobs]
    assert {(job.state, job.error_code) for job in ended} == {("failed", "model_not_found")}


def test_a_kept_chain_is_as_large_as_its_picture() -> None:
    body = ChainBody(PICTURE * 100, {"part": "AX"})
    raw = chain_body.encode(body)
    assert len(raw) < len(PICTURE) * 100 + 300
    assert chain_body.decode(raw) == body
