"""One version of a model as it serves: from an inference to what became of it.

    reader ─► crew: prepare ─► batcher ─► computing threads: run ─► crew: finish ─► daemon

Owned by the worker. What is shared between threads is behind the one lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import onnxruntime as ort

from edge.errors import (
    DeadlineExceeded,
    EdgeError,
    InferenceFailed,
    InternalError,
    PayloadTooLarge,
)
from edge.onnx.batcher import MOST_LENGTH, RANKS, Batcher, Part, Request
from edge.onnx.crew import FINISHING, Crew
from edge.onnx.protocol import (
    HEARTBEAT_SECONDS,
    Computed,
    ModelSpec,
    Refused,
    Report,
    Stage,
    Worked,
)
from edge.onnx.session import Session
from edge.onnx.task import Arrays, Condensing, Prepared, Task
from edge.rest import Rest
from edge.tensors import Inference
from edge.types import Pace, Span

logger = logging.getLogger("edge.onnx")


class Underway:
    """An inference between its arrival and its answer. outputs: of its pieces, by their place."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.began = time.monotonic()
        self.prepared: Prepared | None = None
        self.outputs: dict[int, Arrays] = {}
        self.seconds, self.rows = 0.0, 0


class ServedModel:
    """say: tells the daemon, from any thread."""

    def __init__(
        self,
        spec: ModelSpec,
        session: Session,
        task: Task,
        crew: Crew,
        say: Callable[[Report], None],
    ) -> None:
        self.spec = spec
        self._session = session
        self._task = task
        self._crew = crew
        self._say = say
        declared = spec.declared
        full = max(declared.preferred, default=None) if declared is not None else None
        longest = MOST_LENGTH if session.provider == "cpu" else None
        self._batcher = Batcher(session.max_batch, spec.delay_ms / 1000, full, longest)
        self._changed = threading.Condition()
        self._underway: dict[str, Underway] = {}
        self._running: dict[int, tuple[float, list[Part], ort.RunOptions]] = {}
        self._closing = False
        self._pace = Pace()
        instances = declared.instances if declared is not None else 1
        self._rests = [Rest() for _ in range(instances)]
        self._threads = [
            threading.Thread(target=self._compute, args=(number,), daemon=True)
            for number in range(instances)
        ]
        for thread in self._threads:
            thread.start()

    def accept(self, inference: Inference) -> None:
        with self._changed:
            self._underway[inference.id] = Underway(inference)
        rank = RANKS[inference.priority]
        self._crew.hand(rank, partial(self._prepare, inference.id))

    def cancel(self, inference_id: str) -> None:
        """Nothing is said of it any more. What is being computed for nobody else is broken off."""
        with self._changed:
            self._underway.pop(inference_id, None)
            self._batcher.drop(inference_id)
            self._break_off()

    def keep_pace(self, pace: Pace) -> None:
        """Compute as hard as that from now on."""
        with self._changed:
            self._pace = pace
            self._changed.notify_all()

    def close(self) -> None:
        """End the computing threads; nobody waits for an answer any more."""
        with self._changed:
            self._closing = True
            self._underway.clear()
            self._break_off()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def busy_since(self) -> float | None:
        """Since when the longest computation runs, by the monotonic clock."""
        with self._changed:
            return min((began for began, _, _ in self._running.values()), default=None)

    def _break_off(self) -> None:
        for _, parts, options in self._running.values():
            if not any(part.request.id in self._underway for part in parts):
                options.terminate = True

    # Preparing, on the crew

    def _prepare(self, inference_id: str) -> None:
        with self._changed:
            underway = self._underway.get(inference_id)
        if underway is None:
            return
        inference = underway.inference
        if inference.deadline is not None and inference.deadline <= time.monotonic():
            self._refuse(inference_id, _late())
            return
        self._say(Stage("preparing", [inference_id]))
        try:
            prepared = self._task.prepare(inference.work, max(1, self._session.max_batch))
        except EdgeError as error:
            self._refuse(inference_id, error)
            return
        except Exception:
            logger.exception("%s: work could not be prepared", self.spec.key)
            self._refuse(inference_id, InternalError("it could not be prepared; the log says why"))
            return
        self._say(Stage("waiting", [inference_id]))
        with self._changed:
            if inference_id not in self._underway:
                return
            underway.prepared = prepared
            if not prepared.pieces:  # nothing is to be computed for it
                self._crew.hand(FINISHING, partial(self._finish, inference_id))
                return
            self._batcher.add(_request(underway, prepared))
            # All of them: the one that hears of it may be resting.
            self._changed.notify_all()

    # Computing, on threads of its own

    def _compute(self, number: int) -> None:
        try:
            while (parts := self._next(number)) is not None:
                if parts:
                    self._run(number, parts)
        except BaseException:
            logger.exception("%s: a computing thread failed", self.spec.key)
            os._exit(1)

    def _next(self, number: int) -> list[Part] | None:
        """The next batch; empty to ask again, None at the end."""
        with self._changed:
            if self._closing:
                return None
            late = self._batcher.expired(time.monotonic())
            pause = None if late else self._pause(number)
            if late:
                parts = []
            elif pause is None or pause > 0:
                self._changed.wait(pause)
                return []
            else:
                parts = self._batcher.take(time.monotonic())
                self._running[number] = (time.monotonic(), parts, ort.RunOptions())
        for request in late:
            self._refuse(request.id, _late())
        return parts

    def _pause(self, number: int) -> float | None:
        """As the batcher's, with the rest that this thread owes."""
        now = time.monotonic()
        pause = self._batcher.pause(now)
        if pause is None:
            return None
        rest = self._rests[number].left(self._pace, self._batcher.priorities, now)
        # Not all of a long one: deadlines that pass meanwhile are told.
        return max(pause, min(rest, HEARTBEAT_SECONDS))

    def _run(self, number: int, parts: list[Part]) -> None:
        self._say(Stage("computing", list(dict.fromkeys(part.request.id for part in parts))))
        try:
            error = self._run_together(number, parts)
            if error is not None and len(parts) > 1:  # one is at fault, and the others are not
                for part in parts:
                    self._run_alone(number, part)
            elif error is not None:
                self._refuse(parts[0].request.id, error)
        finally:
            with self._changed:
                del self._running[number]

    def _run_alone(self, number: int, part: Part) -> None:
        with self._changed:
            if part.request.id not in self._underway:
                return
            self._running[number] = (time.monotonic(), [part], ort.RunOptions())
        if (error := self._run_together(number, [part])) is not None:
            self._refuse(part.request.id, error)

    def _run_together(self, number: int, parts: list[Part]) -> EdgeError | None:
        """What was wrong, or None."""
        rows = sum(part.piece.rows for part in parts)
        _, _, options = self._running[number]
        began = time.monotonic()
        try:
            pieces = [part.piece for part in parts]
            inputs = self._task.join(pieces)
            outputs = self._session.run(inputs, options)
            self._check(outputs, rows)
            if isinstance(self._task, Condensing):
                outputs = self._task.condense(pieces, inputs, outputs)
        except EdgeError as error:
            return error
        except Exception:
            logger.exception("%s: a batch could not be computed", self.spec.key)
            return InternalError("it could not be computed; the log says why")
        finally:
            self._tell(number, parts, began)
        seconds = time.monotonic() - began
        first = 0
        for part in parts:
            last = first + part.piece.rows
            own = outputs
            if len(parts) > 1:
                own = {name: array[first:last] for name, array in outputs.items()}
            self._keep(part, own, seconds, rows)
            first = last
        return None

    def _tell(self, number: int, parts: list[Part], began: float) -> None:
        """For how long was computed, and for whom."""
        rows: Counter[str] = Counter()
        for part in parts:
            rows[part.request.id] += part.piece.rows
        with self._changed:
            ended = time.monotonic()
            self._rests[number].worked(ended - began, ended)
            others = [since for at, (since, _, _) in self._running.items() if at != number]
        span = Span(began, ended, dict(rows))
        self._say(Worked(self.spec.key, span, min([ended, *others])))

    def _check(self, outputs: Arrays, rows: int) -> None:
        """Raises `InferenceFailed` where it cannot be said whose an output is."""
        for name, array in outputs.items():
            if self._session.max_batch and (array.ndim == 0 or array.shape[0] != rows):
                raise InferenceFailed(
                    f"the output `{name}` has the shape {list(array.shape)} for {rows} rows: its "
                    "first dimension is not for rows",
                    hint="set max_batch_size to 0",
                )

    def _keep(self, part: Part, outputs: Arrays, seconds: float, rows: int) -> None:
        with self._changed:
            underway = self._underway.get(part.request.id)
            if underway is None:
                return
            underway.outputs[part.place] = outputs
            underway.seconds += seconds
            underway.rows += rows
            whole = len(underway.outputs) == len(part.request.pieces)
        if whole:
            self._crew.hand(FINISHING, partial(self._finish, part.request.id))

    # Finishing, on the crew

    def _finish(self, inference_id: str) -> None:
        with self._changed:
            underway = self._underway.get(inference_id)
        if underway is None or underway.prepared is None:
            return
        outputs = [underway.outputs[place] for place in range(len(underway.outputs))]
        try:
            result = self._task.finish(underway.prepared, outputs)
        except EdgeError as error:
            self._refuse(inference_id, error)
            return
        except Exception:
            logger.exception("%s: an answer could not be made", self.spec.key)
            self._refuse(inference_id, InternalError("no answer could be made; the log says why"))
            return
        if not self._gone(inference_id):
            return
        try:
            self._say(Computed(inference_id, result, underway.seconds, underway.rows))
        except PayloadTooLarge as error:
            self._say(Refused(inference_id, InferenceFailed.code, f"the answer: {error.message}"))

    def _refuse(self, inference_id: str, error: EdgeError) -> None:
        if self._gone(inference_id):
            self._say(Refused(inference_id, error.code, error.message, error.param))

    def _gone(self, inference_id: str) -> bool:
        """Strike it off; False where it was already."""
        with self._changed, contextlib.suppress(KeyError):
            del self._underway[inference_id]
            self._batcher.drop(inference_id)
            return True
        return False


def _request(underway: Underway, prepared: Prepared) -> Request:
    inference = underway.inference
    return Request(
        inference.id,
        inference.priority,
        inference.caller,
        underway.began,
        inference.deadline,
        prepared.pieces,
    )


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed", param="edge.deadline_ms")
