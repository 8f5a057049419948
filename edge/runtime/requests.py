"""The requests that one model's workers have under way, through the deaths of these.

The token ids that each request has already sent out are kept. After a death the requests are
submitted to the next worker with those tokens as a prefix, so that the client sees a pause and not
an error. A request that was running at two deaths is the likely cause: it fails and is not tried
again. Owned by the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge.errors import EdgeError, WorkerCrashed
from edge.runtime.protocol import Embed, Submit
from edge.tensors import Inference
from edge.types import Accepted, Delta, Embedded, Event, Failed, Finished, Generation, Started

MOST_DEATHS = 2


@dataclass
class Live:
    """A request between `submit` and its last event."""

    work: Generation | Inference
    sink: Callable[[Event], None]
    resumable: bool
    sent: list[int] = field(default_factory=list)
    reported: int = 0
    deaths: int = 0
    submitted: bool = False
    accepted: bool = False
    started: bool = False
    announced: bool = False

    @property
    def exposed(self) -> bool:
        """True while a death of the worker may be this request's doing: it is being prepared or
        computed, not merely waiting."""
        return self.submitted and (self.started or not self.accepted)

    def command(self) -> Submit | Embed:
        """What submits it to a worker, behind what was sent out already."""
        self.submitted = True
        work = self.work
        if isinstance(work, Inference):
            return Embed(work)
        if work.logprobs is not None:
            # Tokens of which only the id came are computed again: their log probabilities were
            # held back together with their text, and are lost.
            del self.sent[self.reported :]
        work.resume = list(self.sent)
        return Submit(work)


class LiveRequests:
    def __init__(self) -> None:
        self._live: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return sum(1 for live in self._live.values() if not live.started)

    def add(
        self, work: Generation | Inference, sink: Callable[[Event], None], *, resumable: bool
    ) -> Live:
        sent = list(work.resume) if isinstance(work, Generation) else []
        live = self._live[work.id] = Live(work, sink, resumable, sent)
        return live

    def remove(self, request_id: str) -> Live | None:
        """Its sink hears nothing more. None for one that has ended."""
        return self._live.pop(request_id, None)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    @property
    def ids(self) -> list[str]:
        return list(self._live)

    def hear(self, event: Event) -> None:
        """What a worker says of one of them."""
        live = self._live.get(event.id)
        if live is None:
            return
        if isinstance(event, Delta):
            live.sent += event.tokens
            live.reported += len(event.logprobs)
        elif isinstance(event, Accepted):
            live.accepted = True
            return
        elif isinstance(event, Started):
            live.started = True
            if live.announced:
                return
            live.announced = True
        elif isinstance(event, (Finished, Embedded, Failed)):
            del self._live[event.id]
        live.sink(event)

    def outlive(self) -> None:
        """The worker died: decide what becomes of those that it worked for."""
        for live in list(self._live.values()):
            if live.exposed:
                live.deaths += 1
            if live.deaths >= MOST_DEATHS:
                self._fail(live, WorkerCrashed("the model's worker died twice on this request"))
            elif live.sent and not live.resumable:
                self._fail(live, WorkerCrashed("the model's worker died in the middle"))
            else:
                live.submitted = live.accepted = live.started = False

    def fail_all(self, error: EdgeError) -> None:
        for live in list(self._live.values()):
            self._fail(live, error)

    def _fail(self, live: Live, error: EdgeError) -> None:
        del self._live[live.work.id]
        live.sink(Failed(live.work.id, error.code, error.message, error.param))
