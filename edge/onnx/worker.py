"""The process that serves all ONNX models: `python -m edge.onnx.worker FD`.

    main thread     socket ─► commands ─► models
    crew            prepares and finishes, for all models
    one or more     compute, of each model
    heartbeat       tells every second what the process takes, and for how long it has been busy

What a hostile file or request can do ends here: the daemon starts a new worker and submits what
lived. When the daemon is gone, the socket ends and so does the worker, at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import psutil

from edge import logs
from edge.errors import EdgeError, InternalError
from edge.frames import Connection
from edge.onnx.any_task import AnyTask
from edge.onnx.crew import Crew
from edge.onnx.protocol import (
    COMMANDS,
    HEARTBEAT_SECONDS,
    Beat,
    Cancel,
    Command,
    Compute,
    Loaded,
    LoadModel,
    ModelSpec,
    NotLoaded,
    Refused,
    Report,
    SetPace,
    Setup,
    Stop,
    Unloaded,
    UnloadModel,
    Up,
)
from edge.onnx.served import ServedModel
from edge.onnx.session import Session
from edge.onnx.task import Model
from edge.onnx.tasks import make_task
from edge.onnx.tensor_task import TensorTask
from edge.tensors import OnnxFacts
from edge.types import Pace

logger = logging.getLogger("edge.onnx")

OOM_SCORE = 600
"""Added to the kernel's badness: under memory pressure the worker goes, not the daemon."""

CREW = 2
"""Threads that prepare and finish: one of them may be busy with something long."""


class Worker:
    """Owns the models; `run` is the main thread's loop."""

    def __init__(self, connection: Connection[Command], setup: Setup) -> None:
        self._connection = connection
        self._setup = setup
        self._crew = Crew(CREW)
        self._models: dict[str, ServedModel] = {}
        self._pace = Pace()
        self._process = psutil.Process()

    def run(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        while True:
            command = self._connection.receive()
            if command is None or isinstance(command, Stop):
                return
            if isinstance(command, Compute):
                self._accept(command)
            elif isinstance(command, Cancel):
                for model in list(self._models.values()):
                    model.cancel(command.id)
            elif isinstance(command, SetPace):
                self._pace = command.pace
                for model in list(self._models.values()):
                    model.keep_pace(command.pace)
            elif isinstance(command, LoadModel):
                self._aside(self._load, command.spec)
            elif isinstance(command, UnloadModel):
                self._aside(self._unload, command.key)

    def say(self, report: Report) -> None:
        try:
            self._connection.send(report)
        except OSError:  # the daemon is gone
            os._exit(0)

    def _accept(self, command: Compute) -> None:
        model = self._models.get(command.key)
        if model is None:
            self.say(Refused(command.inference.id, "loading", f"{command.key} is not loaded"))
        else:
            model.accept(command.inference)

    def _aside(self, work: Callable[..., None], *arguments: object) -> None:
        """On a thread of its own: it may take long, and other models go on."""
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _load(self, spec: ModelSpec) -> None:
        began, before = time.monotonic(), self._taken()
        error: EdgeError
        try:
            session = Session(spec, self._setup)
            model = _as_declared(spec, session)
            task = AnyTask(make_task(spec.manifest, model), TensorTask(model))
            served = ServedModel(spec, session, task, self._crew, self.say)
        except EdgeError as refusal:
            error = refusal
        except Exception:
            logger.exception("%s could not be loaded", spec.key)
            error = InternalError(f"{spec.key} could not be loaded; the log says why")
        else:
            self._models[spec.key] = served
            served.keep_pace(self._pace)
            _trim()
            seconds, memory = time.monotonic() - began, self._taken() - before
            self.say(Loaded(spec.key, _facts(spec, session, seconds, memory)))
            return
        self.say(NotLoaded(spec.key, error.code, error.message, error.hint))

    def _unload(self, key: str) -> None:
        model = self._models.pop(key, None)
        if model is not None:
            model.close()
            del model  # and its session with it
            _trim()
        self.say(Unloaded(key))

    def _beat(self) -> None:
        while True:
            now = time.monotonic()
            since = [model.busy_since() for model in list(self._models.values())]
            busy = max((now - one for one in since if one is not None), default=0.0)
            memory = int(self._process.memory_info().rss)
            self.say(Beat(memory, self._taken(), busy, now))
            time.sleep(HEARTBEAT_SECONDS)

    def _taken(self) -> int:
        """Anonymous memory: what nobody else can have. onnxruntime copies weights into it."""
        memory = self._process.memory_info()
        return int(memory.rss) - int(memory.shared)


def _step_back(nice: int) -> None:
    """Leave the processor to others where both want it.

    Linux may give each session a share of its own (sched_autogroup_enabled, as desktops and
    Jetsons have it), and then nice(1) counts within this process's session alone, which has
    nobody else in it: the session's share has a nice value too.
    """
    reached = os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(reached))


def _trim() -> None:
    """Give the kernel what the allocator keeps: 65 of 159 MB after int8 MiniLM was loaded."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _as_declared(spec: ModelSpec, session: Session) -> Model:
    return Model(
        spec.name,
        Path(spec.folder),
        session.inputs,
        session.outputs,
        session.metadata,
        session.max_batch > 0,
    )


def _facts(spec: ModelSpec, session: Session, seconds: float, memory: int) -> OnnxFacts:
    files = [file for file in Path(spec.file).parent.rglob("*") if file.is_file()]
    return OnnxFacts(
        name=spec.name,
        version=spec.version,
        task=spec.manifest.task,
        inputs=session.inputs,
        outputs=session.outputs,
        provider=session.provider,
        max_batch=session.max_batch,
        size_bytes=sum(file.stat().st_size for file in files),
        load_seconds=seconds,
        memory_bytes=max(0, memory),
    )


def main() -> int:
    logs.set_up(level_names=False)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    connection = Connection(socket.socket(fileno=int(sys.argv[1])), COMMANDS)
    setup = connection.receive()
    if not isinstance(setup, Setup):
        return 1
    _step_back(setup.nice)
    worker = Worker(connection, setup)
    worker.say(Up(ort.__version__, ort.get_available_providers()))
    worker.run()
    # Not by way of the interpreter's end, which waits for threads that compute.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
