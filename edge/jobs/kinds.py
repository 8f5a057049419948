"""The kinds of kept requests: who answers those of each, and whom their lines wait for.

The dispatcher knows jobs and lines; what is in them is the business of the classes that are
gathered here, one for each family of kinds. The first word of a line tells whose it is, and the
lines without such a word are the router's. Nothing here has state.
"""

from __future__ import annotations

from typing import Protocol

from edge.chains.chains import Chains
from edge.errors import EdgeError
from edge.jobs import chaining, inferring
from edge.jobs.chaining import Chaining
from edge.jobs.embedding import Embedding
from edge.jobs.generating import Generating
from edge.jobs.inferring import Inferring
from edge.jobs.listeners import Hear
from edge.jobs.places import Lines, Place
from edge.service import Service
from edge.store.job import Job, JobFacts
from edge.types import Priority


class Kind(Protocol):
    """Who answers the requests of some kinds, rebuilt from what the ledger has kept."""

    async def answer(self, job: Job, heard: Hear | None) -> bytes:
        """The answer as it is kept, JSON. Raises an `EdgeError`.

        heard: is called with the pieces of a text as they come.
        """

    def shown(self, request: bytes) -> object:
        """A kept request as those who look after the appliance see it, ready for JSON."""


class Kinds:
    """All of them."""

    def __init__(self, service: Service, chains: Chains) -> None:
        texts, infers, reports = Generating(service), Inferring(service), Chaining(service, chains)
        self._service = service
        self._kinds: dict[str, Kind] = {
            "chat": texts,
            "completion": texts,
            "response": texts,
            "embed": Embedding(service),
            "infer": infers,
            "chain": reports,
        }
        self._texts: Lines = service.router
        self._lines: dict[str, Lines] = {inferring.WORD: infers, chaining.WORD: reports}

    async def answer(self, job: Job, heard: Hear | None) -> bytes:
        return await self._kinds[job.kind].answer(job, heard)

    def shown(self, job: Job) -> object:
        return self._kinds[job.kind].shown(job.request)

    def place(self, line: str, priority: Priority) -> Place | None:
        return self._of(line).place(line, priority)

    def room(self, place: Place, priority: Priority) -> int:
        """How many requests up to that class it takes at once now, of all that it has room for: an
        appliance that is too warm begins fewer, and none that may wait longer."""
        heat = self._service.heat
        if place.route != "local" or priority == "critical":
            return place.room
        if heat.holds(priority, may_wait=True):
            return 0
        share = heat.pace.batch_slots if priority == "batch" else heat.pace.slots
        return min(place.room, max(1, int(place.room * share)))

    def reachable(self, line: str) -> bool:
        return self._of(line).reachable(line)

    def obstacle(self, job: JobFacts) -> str | None:
        """Why a job waits, where it does not only wait for its turn."""
        try:
            if obstacle := self._of(job.line).obstacle(job.line):
                return obstacle
            place = self.place(job.line, job.priority)
            if place is None or place.route != "local":
                return None
            return self._service.heat.holds(job.priority, may_wait=True)
        except EdgeError as error:
            return error.message

    def loading(self, job: JobFacts) -> str | None:
        """The model that a job waits for to be loaded, None if it does not."""
        try:
            return self._of(job.line).loading(job.line)
        except EdgeError:
            return None

    def _of(self, line: str) -> Lines:
        return self._lines.get(line.partition(" ")[0], self._texts)
