"""What a worker does with a model that embeds, in place of `worker.Worker`."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from edge.engine.embedding import EmbeddingIntake, EmbeddingQueue, Job
from edge.engine.llama import LlamaLog
from edge.engine.llama_embedder import LlamaEmbedder
from edge.engine.shortage import WeightsDoNotFit
from edge.errors import EdgeError, InvalidRequest, ModelLoadFailed
from edge.frames import Connection
from edge.runtime.protocol import Command, Embed, Load, LoadFailed, Ready, Submit
from edge.runtime.worker_loop import WorkerLoop
from edge.types import Accepted, EngineStats, Event, Pace, Span


class EmbeddingWorker(WorkerLoop[Job]):
    """Owns the queue."""

    def __init__(self, connection: Connection[Command], embedder: LlamaEmbedder) -> None:
        super().__init__(connection)
        self._embedder = embedder
        self._intake = EmbeddingIntake(embedder)
        self._queue = EmbeddingQueue(embedder, time.monotonic)
        self._process = psutil.Process()

    @property
    def idle(self) -> bool:
        return not len(self._queue)

    def prepare(self, command: Submit | Embed) -> Job:
        if isinstance(command, Embed):
            return self._intake.prepare(command.inference)
        raise InvalidRequest(
            f"{self._embedder.name} makes vectors of texts and answers nothing; it is for "
            "/v1/embeddings",
            param="model",
        )

    def submit(self, work: Job) -> Accepted:
        self._queue.submit(work)
        return Accepted(work.id, sum(map(len, work.rows)))

    def cancel(self, work_id: str) -> None:
        self._queue.cancel(work_id)

    def begin(self) -> list[Event]:
        return self._queue.begin()

    def step(self) -> list[Event]:
        return self._queue.step()

    @property
    def rest(self) -> float:
        return self._queue.rest

    def keep_pace(self, pace: Pace) -> None:
        self._queue.pace = pace

    def take_spans(self) -> list[Span]:
        return self._queue.take_spans()

    def stats(self) -> EngineStats:
        """With texts that are computed together in the place of slots."""
        memory, texts = self._process.memory_info(), self._embedder.texts
        running = min(self._queue.running, texts)
        anonymous, mapped = int(memory.rss) - int(memory.shared), self._embedder.mapped_bytes
        return EngineStats(
            steps=self._queue.steps,
            slots=texts,
            free=texts - running,
            running=running,
            resident=0,
            waiting=len(self._queue) - self._queue.running,
            kv_used_tokens=0,
            kv_total_tokens=0,
            memory_bytes=int(memory.rss),
            taken_bytes=anonymous + mapped + self._embedder.shared_bytes,
            mapped_bytes=mapped,
        )


def serve_embedder(connection: Connection[Command], load: Load, log: LlamaLog) -> int:
    """Load the model and serve it until the daemon says stop; returns the process's exit code."""
    try:
        if load.adapter is not None:
            raise ModelLoadFailed(f"{load.name}: adapters are for models that generate text")
        embedder = LlamaEmbedder(load.name, Path(load.path), load.settings, log)
    except EdgeError as error:
        weights = isinstance(error, WeightsDoNotFit)
        connection.send(LoadFailed(error.code, error.message, error.hint, weights))
        return 1
    worker = EmbeddingWorker(connection, embedder)
    connection.send(Ready(embedder.facts(int(psutil.Process().memory_info().rss))))
    worker.run()
    return 0
