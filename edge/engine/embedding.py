"""Requests for vectors in a worker: texts to rows of tokens, rows to batches, vectors to answers.

    intake (reader thread) ─► jobs ─► begin ─► step: a batch of rows of those who are next ─► events

By priority, callers in turns, then by age; a batch takes rows of several requests. Owned by the
worker's main thread, but for the intake, which only reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from edge.engine.llama_embedder import LlamaEmbedder
from edge.engine.sequence import AGED_SECONDS
from edge.errors import ContextLengthExceeded, DeadlineExceeded, InternalError, InvalidRequest
from edge.rest import Rest
from edge.tensors import Inference, TextWork
from edge.turns import Turns
from edge.types import Embedded, Event, Failed, Pace, Span, Started
from edge.vectors import Floats, unit

LONGEST_TOKEN = 64
"""Characters; a text that has more for each of the tokens it may have is not tokenized at all."""

RANKS = {"critical": 0, "normal": 1, "batch": 2}


@dataclass
class Job:
    """One request. done: rows of which the vectors are there. since: of the clock's."""

    inference: Inference
    rows: list[list[int]]
    dimensions: int | None
    vectors: Floats
    since: float = 0.0
    done: int = 0
    started: bool = False

    @property
    def id(self) -> str:
        return self.inference.id

    def rank(self, now: float) -> int:
        rank = RANKS[self.inference.priority]
        return 1 if rank > 1 and now - self.since >= AGED_SECONDS else rank


class Taken(NamedTuple):
    job: Job
    row: int


class EmbeddingIntake:
    """Everything that can be refused is refused here, before any computation."""

    def __init__(self, embedder: LlamaEmbedder) -> None:
        self._vocabulary = embedder.vocabulary
        self._longest = embedder.longest
        self._width = embedder.width

    def prepare(self, inference: Inference) -> Job:
        """Raises `InvalidRequest` and `ContextLengthExceeded`, with the text at fault."""
        work = inference.work
        if not isinstance(work, TextWork):
            raise InvalidRequest("this model takes texts to embed", param="model")
        if work.kind is not None:
            raise InvalidRequest(
                "input_type: this model has no prefixes of its own; write them before the texts",
                param="input_type",
            )
        if work.dimensions is not None and work.dimensions > self._width:
            raise InvalidRequest(
                f"dimensions is {work.dimensions}, and this model's vectors have {self._width}",
                param="dimensions",
            )
        rows = [self._row(f"input[{at}]", text) for at, text in enumerate(work.texts)]
        vectors = np.empty((len(rows), self._width), np.float32)
        return Job(inference, rows, work.dimensions, vectors)

    def _row(self, param: str, text: str | list[int]) -> list[int]:
        if not text:
            raise InvalidRequest(f"{param} is empty", param=param)
        if isinstance(text, str):
            if len(text) > self._longest * LONGEST_TOKEN:
                raise self._too_long(param, f"{len(text)} characters")
            row = self._vocabulary.tokenize(text, special=False, bos=True)
        else:
            row = text
            last = self._vocabulary.size - 1
            if not 0 <= min(row) <= max(row) <= last:
                raise InvalidRequest(
                    f"{param} names a token that is not one of this model's, which are 0 to {last}",
                    param=param,
                )
        if not row:
            raise InvalidRequest(f"{param} has no tokens", param=param)
        if len(row) > self._longest:
            raise self._too_long(param, f"{len(row)} tokens")
        return row

    def _too_long(self, param: str, what: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"{param} has {what}, and this model reads {self._longest}", param=param
        )


@dataclass
class EmbeddingQueue:
    """All requests of one model. Every one ends with `Embedded` or `Failed`, or is cancelled, which
    is silent. clock: seconds; deadlines are times of it."""

    embedder: LlamaEmbedder
    clock: Callable[[], float]
    steps: int = 0
    pace: Pace = field(default_factory=Pace)
    _jobs: dict[str, Job] = field(default_factory=dict)
    _turns: Turns = field(default_factory=Turns)
    _next: list[Taken] = field(default_factory=list)
    _spans: list[Span] = field(default_factory=list)
    _rest: Rest = field(default_factory=Rest)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> int:
        return sum(job.started for job in self._jobs.values())

    @property
    def rest(self) -> float:
        """Seconds until the next batch, so that the machine cools."""
        waiting = {job.inference.priority for job in self._jobs.values()}
        return self._rest.left(self.pace, waiting, self.clock())

    def submit(self, job: Job) -> None:
        job.since = self.clock()
        self._jobs[job.id] = job

    def cancel(self, request_id: str) -> None:
        """Unknown ids are fine."""
        self._jobs.pop(request_id, None)

    def begin(self) -> list[Event]:
        """Choose what `step` computes. Separate from it, so that the worker can tell whose it is
        before a computation that may kill it."""
        now = self.clock()
        events: list[Event] = []
        for job in list(self._jobs.values()):
            if job.inference.deadline is not None and job.inference.deadline <= now:
                del self._jobs[job.id]
                events.append(Failed(job.id, DeadlineExceeded.code, "the deadline passed"))
        self._next = self._chosen(now)
        for job in {taken.job.id: taken.job for taken in self._next}.values():
            if not job.started:
                job.started = True
                events.append(Started(job.id, 0))
        return events

    def step(self) -> list[Event]:
        """Raises RuntimeError when the computation failed: the process is then of no more use."""
        if not self._next:
            return []
        taken, self._next = self._next, []
        began = self.clock()
        vectors = self.embedder.compute([one.job.rows[one.row] for one in taken])
        self.steps += 1
        ended = self.clock()
        self._rest.worked(ended - began, ended)
        tokens: Counter[str] = Counter()
        for job, row in taken:
            tokens[job.id] += len(job.rows[row])
            self._turns.serve(job.inference.caller, len(job.rows[row]))
        self._spans.append(Span(began, ended, dict(tokens)))
        for (job, row), vector in zip(taken, vectors, strict=True):
            job.vectors[row] = vector
            job.done += 1
        whole = {job.id: job for job, _ in taken if job.done == len(job.rows)}
        return [self._finish(job) for job in whole.values()]

    def take_spans(self) -> list[Span]:
        """What was computed since this was last asked, in tokens."""
        spans, self._spans = self._spans, []
        return spans

    def _chosen(self, now: float) -> list[Taken]:
        """Rows of those who are next, as many as are computed together."""
        jobs = list(self._jobs.values())
        jobs.sort(key=lambda job: (job.rank(now), self._turns.place(job.inference.caller)))
        taken: list[Taken] = []
        room = self.embedder.tokens
        for job in jobs:
            for row in range(job.done, len(job.rows)):
                size = len(job.rows[row])
                if size > room or len(taken) == self.embedder.texts:
                    return taken
                taken.append(Taken(job, row))
                room -= size
        return taken

    def _finish(self, job: Job) -> Event:
        del self._jobs[job.id]
        vectors = unit(job.vectors[:, : job.dimensions])
        if not np.isfinite(vectors).all():
            return Failed(job.id, InternalError.code, "the model computes no numbers for the input")
        tokens = sum(map(len, job.rows))
        return Embedded(job.id, vectors.shape[1], vectors.astype("<f4").tobytes(), tokens)
