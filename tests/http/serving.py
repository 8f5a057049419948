"""The HTTP door in this process, in front of a runner whose tokens the test hands out.

For what a real daemon does only after half a minute: the bounds on time are module constants,
which a test can shorten here. The loop is the daemon's (uvloop), in a thread of its own, so that
tests can be clients with plain sockets.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from daemon_process import MODEL, PATIENCE, poll

from edge.access.gate import Gate
from edge.access.keyring import Keyring
from edge.access.networks import Networks
from edge.api.http.app import make_app
from edge.api.http.connection import bounded
from edge.api.http.errors import refusal
from edge.batches.batcher import Batcher
from edge.books import Books
from edge.chains.chains import Chains
from edge.config.doors import Limits
from edge.config.tree import Config
from edge.fleet.exchange import Exchange
from edge.fleet.fleet import Fleet
from edge.fleet.model import Resident
from edge.fleet.rules import Rules
from edge.http_server import Server
from edge.inference.models import onnx_models
from edge.jobs.backlog import BacklogReader
from edge.jobs.dispatcher import Dispatcher
from edge.jobs.kinds import Kinds
from edge.metrics import Metrics
from edge.modelstore.store import ModelStore
from edge.service import Service
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.files import Files
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.switching.switches import Switches
from edge.types import Delta, EngineStats, Event, Finished, Generation, Started, Usage

Sink = Callable[[Event], None]


class Facts:
    """What of `ModelFacts` the door asks for."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.architecture, self.backend, self.gpu_layers, self.kv_type = "llama", "cpu", 0, "f16"


class HandRunner:
    """Stands where a `ModelRunner` stands. Sequences run as long as they are not cancelled."""

    def __init__(self, slots: int, piece: str, endless: bool) -> None:
        self.name = MODEL
        self.path = Path("/nowhere")
        self.adapter = None
        self.facts = Facts(slots)
        self.state, self.error, self.pid, self.restarts = "ready", None, None, 0
        self.piece, self.endless = piece, endless
        self.memory = None
        self.running: dict[str, asyncio.Task[None]] = {}
        self.queue: dict[str, tuple[Generation, Sink]] = {}
        self.cancelled: list[str] = []

    @property
    def live(self) -> int:
        return len(self.running) + len(self.queue)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    @property
    def stats(self) -> EngineStats:
        slots, running = self.facts.slots, len(self.running)
        return EngineStats(0, slots, slots - running, running, 0, self.waiting, 0, slots, 0)

    def submit(self, generation: Generation, sink: Sink, *, resumable: bool = True) -> None:
        self.queue[generation.id] = (generation, sink)
        self._admit()

    def cancel(self, generation_id: str) -> None:
        self.cancelled.append(generation_id)
        self.queue.pop(generation_id, None)
        if task := self.running.pop(generation_id, None):
            task.cancel()
        self._admit()

    def _admit(self) -> None:
        while self.queue and len(self.running) < self.facts.slots:
            generation_id, (generation, sink) = next(iter(self.queue.items()))
            del self.queue[generation_id]
            task = asyncio.create_task(self._run(generation, sink))
            self.running[generation_id] = task

    async def _run(self, generation: Generation, sink: Sink) -> None:
        sink(Started(generation.id, 0))
        count = generation.max_tokens or 0
        for _ in range(count):
            sink(Delta(generation.id, [1], self.piece))
            await asyncio.sleep(0.001)
        if self.endless:
            await asyncio.Event().wait()
        del self.running[generation.id]
        sink(Finished(generation.id, "length", Usage(1, 0, count, 0.1, 0.1)))
        self._admit()


class HandFleet(Fleet):
    """A fleet of this one runner, which is there from the beginning and stays."""

    def __init__(self, runner: HandRunner) -> None:
        super().__init__(NothingInstalled(), Rules(), Metrics(), lambda: None)
        model = self._roster[runner.name]
        model.resident = Resident(runner, ExitStack())  # type: ignore[arg-type]
        model.resident.task = DONE  # type: ignore[assignment]


class NothingInstalled:
    def names(self) -> list[str]:
        return []

    def adapter(self, name: str) -> None:
        return None

    def path(self, name: str) -> Path | None:
        return None

    def prepare(self, name: str, room: object, loading: object) -> Any:
        raise AssertionError(name)


DONE = object()
"""In the place of a task that nobody waits for."""


class Serving:
    """A served door, from the client's side and from inside."""

    def __init__(self, port: int, runner: HandRunner, server: Server, service: Service) -> None:
        self.port = port
        self.runner = runner
        self.server = server
        self.service = service

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def wait_free(self) -> None:
        """Every slot is free again, nobody waits, and the service knows it."""
        poll(lambda: self.runner.live == self.service.live == 0, "all slots free")

    def wait_connections(self, count: int) -> None:
        poll(lambda: len(self.server.server_state.connections) == count, f"{count} connections")


@contextmanager
def serving(
    slots: int = 2,
    piece: str = "word ",
    endless: bool = False,
    send_buffer: int = 0,
    **limits: Any,
) -> Iterator[Serving]:
    """`endless`: sequences stay in their slots after the last token until they are cancelled."""
    config = Config(limits=Limits(**limits))
    runner = HandRunner(slots, piece, endless)
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    metrics = Metrics()
    onnx = onnx_models(config, Path("/nowhere"), metrics)
    service = Service(config, HandFleet(runner), onnx, Books(metrics))  # type: ignore[arg-type]
    # Nothing that is tested here is kept: its file is never opened.
    database, bounds = Database(Path("/nowhere"), ()), Bounds(1, 1)
    ledger = Jobs(database, bounds, result_ttl=1)
    chains = Chains(service)
    dispatcher = Dispatcher(ledger, Kinds(service, chains), service.metrics, 1)
    files = Files(database, Path("/nowhere"), max_bytes=1, ttl=1)
    gate = Gate(Keyring(Path("/nowhere")), required=(), networks=Networks(config.http.allow_ips))
    batches = Batches(database, bounds, ttl=1)
    batcher = Batcher(batches, files, dispatcher, service, refusal, gate.owner)
    switches = Switches(ModelStore(Path("/nowhere")), Exchange(service.fleet), config.switching)
    backlog = BacklogReader(ledger, Deliveries(database), batches, bounds, int)
    app = make_app(service, chains, dispatcher, files, batcher, switches, backlog, gate)
    server = Server(
        uvicorn.Config(
            app,
            http=bounded(app.state.crowd),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    failures: list[BaseException] = []

    def run() -> None:
        try:
            uvloop.run(server.serve(sockets=[listener]))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        poll(lambda: server.started, "serving")
        yield Serving(listener.getsockname()[1], runner, server, service)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not failures


def request(path: str = "/v1/completions", **fields: Any) -> bytes:
    """A whole POST as a client would write it."""
    body = json.dumps({"prompt": "x", "max_tokens": 4, **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Everything up to `mark`; fails when the connection ends before it."""
    data = b""
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, f"the connection ended after {data[-200:]!r}"
        data += piece
    return data


def read_to_end(sock: socket.socket) -> bytes:
    """What comes until the connection ends, in order or by a reset."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data
