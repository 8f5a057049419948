"""The sequences without a slot, and who of them is the next to have one.

    by rank ─► parked ones first ─► callers in turns ─► by the time it is due ─► by age

Nobody waits forever, except behind more urgent work that never ends: a batch sequence that has
waited for `AGED_SECONDS` ranks as a normal one, and one without a deadline counts as due
`UNHURRIED_SECONDS` after it came, so that ever new deadlines overtake it no longer than that.
Owned by the engine; it reads no clock, callers say what time it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from edge.engine.sequence import Sequence
from edge.turns import Turns

UNHURRIED_SECONDS = 60.0
"""A sequence is due so long after it came, unless its deadline is earlier. No later deadline puts
it further back than having none would."""

MOST_PARKS = 2
"""A sequence that was parked so often is left alone while there is another one to park."""


class Waiting:
    """In order of arrival when iterated; `order` is that of admission."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def submit(self, sequence: Sequence, now: float) -> None:
        """Queue one that has no slot yet, or one that was parked."""
        sequence.waits(now)
        self._sequences.append(sequence)

    def admit(self, sequence: Sequence) -> None:
        """It gets a slot. One that was parked has had its turn before."""
        self._sequences.remove(sequence)
        if not sequence.parked:
            self._turns.serve(sequence.caller)

    def remove(self, sequence: Sequence) -> None:
        """Forget one that will not get a slot."""
        self._sequences.remove(sequence)

    def order(self, now: float) -> list[Sequence]:
        """All of them, the next to be admitted first."""
        for sequence in self._sequences:
            sequence.age(now)
        place = self._places()
        return sorted(
            self._sequences,
            key=lambda sequence: (
                sequence.rank,
                not sequence.parked,
                sequence.started_at if sequence.parked else place[sequence.id],
            ),
        )

    def _places(self) -> dict[str, float]:
        """Each one's turn: callers have as many as they have sequences in a rank, one after the
        other, and use them in the order in which these are due."""
        queues: defaultdict[tuple[int, str], list[Sequence]] = defaultdict(list)
        for sequence in self._sequences:
            if not sequence.parked:
                queues[sequence.rank, sequence.caller].append(sequence)
        places: dict[str, float] = {}
        for (_, caller), queue in queues.items():
            first = self._turns.place(caller)
            for at, sequence in enumerate(sorted(queue, key=_due)):
                places[sequence.id] = first + at
        return places


def _due(sequence: Sequence) -> float:
    unhurried = sequence.waiting_since + UNHURRIED_SECONDS
    deadline = sequence.generation.deadline
    return unhurried if deadline is None else min(deadline, unhurried)


def to_park(running: Iterable[Sequence]) -> Sequence | None:
    """Whose slot a critical sequence may have; `running` is in order of admission.

    The batch sequence that began last has the least to lose. One that was parked `MOST_PARKS`
    times is chosen only among its like, then the one that was parked least often.
    """
    batch = [one for one in running if one.generation.priority == "batch"]
    if not batch:
        return None
    return min(reversed(batch), key=lambda one: max(one.parks - MOST_PARKS + 1, 0))
