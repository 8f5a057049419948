"""The two threads of a worker process, whatever it computes.

    reader thread   socket ─► commands ─► prepared work ─► mailbox
    main thread     mailbox ─► begin, step ─► one frame ─► socket

What computes belongs to the main thread alone, and `prepare` runs in the reader. When the daemon is
gone, the socket ends and so does the process, at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from edge.errors import EdgeError, InternalError
from edge.frames import Connection
from edge.runtime.protocol import (
    HEARTBEAT_SECONDS,
    Cancel,
    Command,
    Embed,
    Frame,
    SetPace,
    Stop,
    Submit,
)
from edge.types import Accepted, EngineStats, Event, Failed, Pace, Span

logger = logging.getLogger("edge.worker")

MOST_MAIL = 256
"""Messages handled between two steps, so that a flood cannot keep the engine from stepping."""

W = TypeVar("W")


class WorkerLoop(ABC, Generic[W]):
    """`run` is the main thread's. W: work as it is prepared."""

    gather_seconds = 0.0
    """Pause after each message that an idle worker waits for another."""

    def __init__(self, connection: Connection[Command]) -> None:
        self._connection = connection
        self._mailbox: queue.SimpleQueue[W | Cancel | SetPace | Stop | Failed] = queue.SimpleQueue()
        self._stopping = False

    # What there is to compute

    @property
    @abstractmethod
    def idle(self) -> bool: ...

    @abstractmethod
    def prepare(self, command: Submit | Embed) -> W:
        """Raises an `EdgeError`, which is the answer."""

    @abstractmethod
    def submit(self, work: W) -> Accepted: ...

    @abstractmethod
    def cancel(self, work_id: str) -> None: ...

    @abstractmethod
    def begin(self) -> list[Event]:
        """Choose what is computed next."""

    @abstractmethod
    def step(self) -> list[Event]:
        """Compute. What fails here ends the process."""

    @abstractmethod
    def stats(self) -> EngineStats: ...

    @abstractmethod
    def take_spans(self) -> list[Span]:
        """What was computed since this was last asked."""

    @property
    @abstractmethod
    def rest(self) -> float:
        """Seconds until it may compute again, unless something comes that may not wait."""

    @abstractmethod
    def keep_pace(self, pace: Pace) -> None:
        """Work as hard as that from now on."""

    # The threads

    def run(self) -> None:
        """Until the daemon says stop."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while not self._stopping:
            events = self._collect_mail()
            events += self.begin()
            if events:
                # Said before the computation, so that the daemon knows who ran if it kills us.
                self._send(events)
            computed = [] if self.rest else self.step()
            if computed or not events:
                self._send(computed)

    def _collect_mail(self) -> list[Event]:
        """Everything that has arrived; waits for something, or a heartbeat, when idle, and while it
        should rest."""
        events: list[Event] = []
        idle = self.idle
        pause = HEARTBEAT_SECONDS if idle else min(self.rest, HEARTBEAT_SECONDS)
        with contextlib.suppress(queue.Empty):
            for _ in range(MOST_MAIL):
                self._handle(self._mailbox.get(block=pause > 0, timeout=pause), events)
                gather = self.gather_seconds if idle and pause else 0.0
                pause = max(min(self.rest, HEARTBEAT_SECONDS), gather)
                if self._stopping:
                    break
        return events

    def _handle(self, mail: W | Cancel | SetPace | Stop | Failed, events: list[Event]) -> None:
        if isinstance(mail, Stop):
            self._stopping = True
        elif isinstance(mail, SetPace):
            self.keep_pace(mail.pace)
        elif isinstance(mail, Cancel):
            self.cancel(mail.id)
        elif isinstance(mail, Failed):
            events.append(mail)
        else:
            events.append(self.submit(mail))

    def _send(self, events: list[Event]) -> None:
        spans = self.take_spans()
        self._connection.send(Frame(events, self.stats(), spans, time.monotonic()))

    def _read(self) -> None:
        """Ends the process when the daemon is gone or talks nonsense."""
        try:
            while (command := self._connection.receive()) is not None:
                if isinstance(command, (Submit, Embed)):
                    self._mailbox.put(self._prepared(command))
                elif isinstance(command, (Cancel, SetPace, Stop)):
                    self._mailbox.put(command)
        except Exception:
            logger.exception("the daemon's messages cannot be read")
            os._exit(1)
        os._exit(0)

    def _prepared(self, command: Submit | Embed) -> W | Failed:
        asked = command.generation if isinstance(command, Submit) else command.inference
        try:
            return self.prepare(command)
        except EdgeError as error:
            return Failed(asked.id, error.code, error.message, error.param)
        except Exception:
            logger.exception("a request could not be prepared")
            return Failed(asked.id, InternalError.code, "the request could not be prepared")
