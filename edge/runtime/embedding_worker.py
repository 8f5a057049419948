"""What a worker does with a model that embeds, in place of `worker.Worker`.

reader thread   socket ─► requests ─► rows of tokens ─► mailbox
main thread     mailbox ─► queue.begin, queue.step ─► one frame ─► socket
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from pathlib import Path

import psutil

from edge.engine.embedding import EmbeddingIntake, EmbeddingQueue, Job
from edge.engine.llama import LlamaLog
from edge.engine.llama_embedder import LlamaEmbedder
from edge.errors import EdgeError, InternalError, InvalidRequest, ModelLoadFailed
from edge.frames import Connection
from edge.runtime.protocol import (
    HEARTBEAT_SECONDS,
    Cancel,
    Command,
    Embed,
    Frame,
    Load,
    LoadFailed,
    Ready,
    Stop,
    Submit,
)
from edge.types import Accepted, EngineStats, Event, Failed

logger = logging.getLogger("edge.worker")

Mail = Job | Cancel | Stop | Failed


class EmbeddingWorker:
    """Owns the queue; `run` is the main thread's loop."""

    def __init__(self, connection: Connection[Command], embedder: LlamaEmbedder) -> None:
        self._connection = connection
        self._embedder = embedder
        self._intake = EmbeddingIntake(embedder)
        self._queue = EmbeddingQueue(embedder, time.monotonic)
        self._mailbox: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self._stopping = False
        self._process = psutil.Process()

    def run(self) -> None:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while not self._stopping:
            events = [*self._collect_mail(), *self._queue.begin()]
            if events:
                # Said before the computation, so that the daemon knows who ran if it kills us.
                self._send(events)
            computed = self._queue.step()
            if computed or not events:
                self._send(computed)

    def _collect_mail(self) -> list[Event]:
        """Everything that has arrived; waits for something, or a heartbeat, when idle."""
        events: list[Event] = []
        wait = not len(self._queue)
        with contextlib.suppress(queue.Empty):
            while True:
                mail = self._mailbox.get(block=wait, timeout=HEARTBEAT_SECONDS if wait else None)
                self._handle(mail, events)
                wait = False
        return events

    def _handle(self, mail: Mail, events: list[Event]) -> None:
        if isinstance(mail, Job):
            self._queue.submit(mail)
            events.append(Accepted(mail.id, sum(map(len, mail.rows))))
        elif isinstance(mail, Cancel):
            self._queue.cancel(mail.id)
        elif isinstance(mail, Failed):
            events.append(mail)
        else:
            self._stopping = True

    def _send(self, events: list[Event]) -> None:
        self._connection.send(Frame(events, self._stats()))

    def _stats(self) -> EngineStats:
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
            taken_bytes=0 if self._embedder.gpu_layers else anonymous + mapped,
            mapped_bytes=0 if self._embedder.gpu_layers else mapped,
        )

    def _read(self) -> None:
        """The reader thread. Ends the process when the daemon is gone or talks nonsense."""
        try:
            while (command := self._connection.receive()) is not None:
                if isinstance(command, Embed):
                    self._mailbox.put(self._prepared(command))
                elif isinstance(command, Submit):
                    self._mailbox.put(self._no_chat(command))
                elif isinstance(command, (Cancel, Stop)):
                    self._mailbox.put(command)
        except Exception:
            logger.exception("the daemon's messages cannot be read")
            os._exit(1)
        os._exit(0)

    def _prepared(self, command: Embed) -> Job | Failed:
        request_id = command.inference.id
        try:
            return self._intake.prepare(command.inference)
        except EdgeError as error:
            return Failed(request_id, error.code, error.message, error.param)
        except Exception:
            logger.exception("texts could not be prepared")
            return Failed(request_id, InternalError.code, "the texts could not be prepared")

    def _no_chat(self, command: Submit) -> Failed:
        name = self._embedder.name
        said = f"{name} makes vectors of texts and answers nothing; it is for /v1/embeddings"
        return Failed(command.generation.id, InvalidRequest.code, said, "model")


def serve_embedder(connection: Connection[Command], load: Load, log: LlamaLog) -> int:
    """Load the model and serve it until the daemon says stop; returns the process's exit code."""
    try:
        if load.adapter is not None:
            raise ModelLoadFailed(f"{load.name}: adapters are for models that generate text")
        embedder = LlamaEmbedder(load.name, Path(load.path), load.settings, log)
    except EdgeError as error:
        connection.send(LoadFailed(error.code, error.message, error.hint))
        return 1
    worker = EmbeddingWorker(connection, embedder)
    connection.send(Ready(embedder.facts(int(psutil.Process().memory_info().rss))))
    worker.run()
    return 0
