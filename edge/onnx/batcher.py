"""Which pieces of which requests a model computes next, together.

    by rank ─► callers in turns ─► by the time it is due ─► by age

The first in that order is computed next, so that nobody waits forever, and with it what fits to it:
pieces of the same key, of like length, up to so many rows. Critical requests are computed without
company of less urgent ones. Reads no clock, callers say what time it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge.onnx.task import Piece
from edge.turns import Turns
from edge.types import Priority

RANKS: dict[Priority, int] = {"critical": 0, "normal": 1, "batch": 2}

AGED_SECONDS = 20.0
"""A batch request that has waited for so long ranks as a normal one."""

UNHURRIED_SECONDS = 60.0
"""A request is due so long after it came, unless its deadline is earlier."""

MOST_PADDING = 1.25
"""Rows of unequal lengths are joined as long as all of them, padded, take no more than this times
what they take by themselves."""


MOST_LENGTH = 512
"""On a CPU rows are joined up to so much of padded length together. For MiniLM a batch of 512
tokens is as fast by the token as any larger one, takes less memory, and is sooner done with. A GPU
is not filled by that: there `max_rows` is the bound."""


@dataclass
class Request:
    """One inference that waits for its pieces to be computed. since, deadline: monotonic clock.

    left: places of its pieces that nobody has taken yet.
    """

    id: str
    priority: Priority
    caller: str
    since: float
    deadline: float | None
    pieces: Sequence[Piece]
    left: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.left = list(range(len(self.pieces)))

    @property
    def due(self) -> float:
        unhurried = self.since + UNHURRIED_SECONDS
        return unhurried if self.deadline is None else min(self.deadline, unhurried)

    def rank(self, now: float) -> int:
        aged = self.priority == "batch" and now - self.since >= AGED_SECONDS
        return RANKS["normal"] if aged else RANKS[self.priority]


class Part(NamedTuple):
    """A piece of a request, by its place."""

    request: Request
    place: int

    @property
    def piece(self) -> Piece:
        return self.request.pieces[self.place]


class Batcher:
    """max_rows: computed together at most; 0 for one piece at a time. delay: seconds that the
    oldest waits for company at most. full: rows for which nobody waits for more. longest: of their
    padded length together, None for no such bound."""

    def __init__(
        self,
        max_rows: int,
        delay: float,
        full: int | None = None,
        longest: int | None = MOST_LENGTH,
    ) -> None:
        self.max_rows = max_rows
        self._longest = longest
        self.delay = delay
        self.full = min(full or max_rows, max_rows)
        self._requests: dict[str, Request] = {}
        self._turns = Turns()
        self._company = False
        """Requests came together lately, so that others may be about to."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def priorities(self) -> set[Priority]:
        """Of all that wait."""
        return {request.priority for request in self._requests.values()}

    def add(self, request: Request) -> None:
        self._requests[request.id] = request

    def drop(self, request_id: str) -> bool:
        """Forget what of a request was not taken yet. False where there is nothing of it."""
        return self._requests.pop(request_id, None) is not None

    def expired(self, now: float) -> list[Request]:
        """Those whose deadline has passed; they are gone."""
        late = [
            request
            for request in self._requests.values()
            if request.deadline is not None and request.deadline <= now
        ]
        for request in late:
            del self._requests[request.id]
        return late

    def pause(self, now: float) -> float | None:
        """Seconds after which to take a batch, if nothing comes meanwhile; None for no need to."""
        if not self._requests:
            return None
        requests = self._requests.values()
        company = self._company or len(requests) > 1
        if not self.max_rows or not company or any(one.priority == "critical" for one in requests):
            return 0.0
        if sum(one.pieces[place].rows for one in requests for place in one.left) >= self.full:
            return 0.0
        return max(0.0, min(one.since for one in requests) + self.delay - now)

    def take(self, now: float) -> list[Part]:
        """The parts to compute next, of one key; there is at least one request."""
        ordered = self._order(now)
        parts = self._gather(ordered, now)
        for part in parts:
            request = part.request
            request.left.remove(part.place)
            self._turns.serve(request.caller, part.piece.rows)
            if not request.left:
                del self._requests[request.id]
        self._company = len({part.request.id for part in parts}) > 1
        return parts

    def _order(self, now: float) -> list[Request]:
        """All of them, the next first. Callers have as many turns as they have requests in a rank,
        one after the other, and use them in the order in which these are due."""
        queues: defaultdict[tuple[int, str], list[Request]] = defaultdict(list)
        for request in self._requests.values():
            queues[request.rank(now), request.caller].append(request)
        places: dict[str, tuple[int, float, float]] = {}
        for (rank, caller), queue in queues.items():
            place = self._turns.place(caller)
            for request in sorted(queue, key=lambda one: one.due):
                places[request.id] = (rank, place, request.since)
                place += sum(request.pieces[at].rows for at in request.left)
        return sorted(self._requests.values(), key=lambda one: places[one.id])

    def _gather(self, ordered: list[Request], now: float) -> list[Part]:
        first = Part(ordered[0], ordered[0].left[0])
        rank, length = ordered[0].rank(now), first.piece.length
        parts, rows = [first], first.piece.rows
        longest, alone = length, rows * length
        for part in self._company_of(first, ordered, now):
            piece = part.piece
            if rows + piece.rows > self.max_rows:
                continue
            if rank == RANKS["critical"] and part.request.rank(now) != rank:
                break
            padded = (rows + piece.rows) * max(longest, piece.length)
            real = alone + piece.rows * piece.length
            if padded > MOST_PADDING * real or padded > (self._longest or padded):
                continue
            parts.append(part)
            rows, longest, alone = rows + piece.rows, max(longest, piece.length), real
            if rows == self.max_rows:
                break
        return parts

    def _company_of(self, first: Part, ordered: list[Request], now: float) -> list[Part]:
        """What may be computed with it, in the order in which that is tried."""
        piece = first.piece
        if self.max_rows <= piece.rows:
            return []
        found = [
            part
            for request in ordered
            for part in (Part(request, place) for place in request.left)
            if part.piece.key == piece.key and part != first
        ]
        if piece.length:  # a stable sort: among equals the order stays
            found.sort(key=lambda one: abs(one.piece.length - piece.length))
            found.sort(key=lambda one: one.request.rank(now))
        return found
