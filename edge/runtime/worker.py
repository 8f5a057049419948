"""The process that holds one model: `python -m edge.runtime.worker FD`.

What its threads do is in `worker_loop.py`; the llama.cpp context belongs to the main one alone. A
failed computation ends the process: the daemon starts a new one and submits its live requests
again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

import psutil

from edge import logs
from edge.disk import sha256_of
from edge.engine.chat import ChatTemplate
from edge.engine.draft_load import load_draft
from edge.engine.draft_model import DraftModel
from edge.engine.drafts import Drafter
from edge.engine.engine import Engine
from edge.engine.intake import Intake
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.engine.prefix_files import PrefixFiles
from edge.engine.prefixes import PrefixStore
from edge.engine.sequence import Sequence
from edge.engine.shortage import WeightsDoNotFit
from edge.errors import EdgeError, InvalidRequest
from edge.frames import Connection
from edge.runtime.embedding_worker import serve_embedder
from edge.runtime.protocol import COMMANDS, Command, Embed, Load, LoadFailed, Ready, Submit
from edge.runtime.worker_loop import WorkerLoop
from edge.types import Accepted, Adapter, EngineStats, Event, Pace, Span

OOM_SCORE = 600
"""Added to the kernel's badness: under memory pressure the worker goes, not the daemon."""

GATHER_SECONDS = 0.003
"""Pause after each message that an idle worker waits for another. Requests that come together
then start together: one that misses the first step waits for the whole of it."""

FLUSH_SECONDS = 3.0
"""Time that unwritten prefixes get at the end; the daemon gives 5 s in all."""


class Worker(WorkerLoop[Sequence]):
    """Owns the engine."""

    gather_seconds = GATHER_SECONDS

    def __init__(
        self,
        connection: Connection[Command],
        backend: LlamaBackend,
        engine: Engine,
        draft: LlamaBackend | None = None,
    ) -> None:
        """draft: the model that drafts, if there is one."""
        super().__init__(connection)
        self._backend = backend
        self._loaded = [backend, *([draft] if draft else [])]
        self._engine = engine
        self._intake = Intake(backend.vocabulary, self._template, backend.context)
        self._process = psutil.Process()

    def run(self) -> None:
        # Now, when hardly anybody runs yet, and not beside a full house at the first grammar.
        warm_up = self._intake.grammars.warm_up
        threading.Thread(target=warm_up, name="grammars", daemon=True).start()
        super().run()

    @property
    def idle(self) -> bool:
        return self._engine.idle

    def prepare(self, command: Submit | Embed) -> Sequence:
        if isinstance(command, Submit):
            return self._intake.prepare(command.generation)
        raise InvalidRequest(
            f"{self._backend.name} generates text, and its file names no pooling of vectors",
            param="model",
        )

    def submit(self, work: Sequence) -> Accepted:
        self._engine.submit(work)
        return Accepted(work.id, work.prompt_tokens)

    def cancel(self, work_id: str) -> None:
        self._engine.cancel(work_id)

    def begin(self) -> list[Event]:
        return self._engine.admit()

    def step(self) -> list[Event]:
        return self._engine.step()

    def take_spans(self) -> list[Span]:
        return self._engine.take_spans()

    @property
    def rest(self) -> float:
        return self._engine.rest

    def keep_pace(self, pace: Pace) -> None:
        self._engine.pacer.pace = pace

    def memory_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def stats(self) -> EngineStats:
        """The engine's, with what the process takes: all of it, and what is gone for others. That
        is what is anonymous but for kept prefixes, the weights that are read from the file's pages,
        and buffers of a GPU that shares the main memory."""
        memory = self._process.memory_info()
        stats = self._engine.stats(int(memory.rss))
        anonymous = int(memory.rss) - int(memory.shared)
        stats.mapped_bytes = sum(one.mapped_bytes for one in self._loaded)
        shared = sum(one.shared_bytes for one in self._loaded)
        stats.taken_bytes = anonymous + stats.mapped_bytes + shared - stats.kept_bytes
        return stats

    def _template(self) -> ChatTemplate | None:
        source = self._backend.chat_template()
        return ChatTemplate(source, self._backend.vocabulary) if source else None


def main() -> int:
    logs.set_up(level_names=False)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    connection = Connection(socket.socket(fileno=int(sys.argv[1])), COMMANDS)
    load = connection.receive()
    if not isinstance(load, Load):
        return 1
    settings, log = load.settings, LlamaLog()
    if settings.embeds:
        return serve_embedder(connection, load, log)
    try:
        backend = LlamaBackend(load.name, Path(load.path), settings, log, load.adapter)
        draft = load_draft(backend, settings, log) if settings.draft_path else None
    except EdgeError as error:
        weights = isinstance(error, WeightsDoNotFit)
        connection.send(LoadFailed(error.code, error.message, error.hint, weights))
        return 1
    files = _prefix_files(load, backend)
    prefixes = PrefixStore(settings.prefix_bytes, backend.can_cut_snapshots, files)
    drafter = None
    if settings.draft == "lookup":
        drafter = Drafter(DraftModel(draft, backend.vocabulary.size) if draft else None)
    engine = Engine(
        backend,
        inter_token_ms=settings.inter_token_ms,
        drafter=drafter,
        prefixes=prefixes,
    )
    worker = Worker(connection, backend, engine, draft)
    facts = backend.facts(worker.memory_bytes())
    facts.draft_model = settings.draft_model
    connection.send(Ready(facts))
    worker.run()
    if files is not None:
        files.close(FLUSH_SECONDS)
    return 0


def _prefix_files(load: Load, backend: LlamaBackend) -> PrefixFiles | None:
    settings = load.settings
    if not (settings.prefix_bytes and settings.prefix_disk_bytes):
        return None
    files = PrefixFiles(
        Path(settings.prefix_dir),
        Path(load.path),
        backend.state_format() + _adapter_format(load.adapter),
        settings.prefix_disk_bytes,
    )
    files.start()
    return files


def _adapter_format(adapter: Adapter | None) -> str:
    """What an adapter has computed is of use with the same contents at the same strength."""
    return f" {sha256_of(Path(adapter.path))} {adapter.scale}" if adapter else ""


if __name__ == "__main__":
    # Not `sys.exit`: all is written, and to take its objects apart one by one would keep whoever
    # waits for this process waiting for another fifth of a second.
    os._exit(main())
