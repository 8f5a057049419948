"""How much memory there is for a model beside all others. Looks at the roster, changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from edge.errors import OutOfMemory
from edge.fleet.model import Model
from edge.fleet.roster import Roster
from edge.runtime.guard import Room


class Claim(NamedTuple):
    """Bytes that others than this fleet's models were promised, and what of it they hold."""

    promised: int = 0
    held: int = 0


class Memory:
    """available: bytes that can be had on the machine now, None where unknown. cap: of all workers
    together, None for no other bound. beside: asked for what others share the memory."""

    def __init__(
        self, roster: Roster, available: Callable[[], int | None], cap: int | None
    ) -> None:
        self._roster = roster
        self._available = available
        self._cap = cap
        self.beside: Callable[[], Claim] = Claim

    def room(self, model: Model | None, without: Collection[Model] = ()) -> Room:
        """The memory for a model if some others were gone: less than what is available, because
        what was promised to those that stay and is not taken yet cannot be seen. By None, for
        whoever is beside the fleet."""
        gone = [one.resident for one in without]
        own = model.resident if model is not None else None
        others = [one for one in self._roster.residents() if one is not own]
        claim = self.beside()
        staying = [resident for resident in others if resident not in gone]
        available, left = self._available(), None
        if available is not None:
            available += sum(resident.held_bytes for resident in others if resident in gone)
            available -= sum(max(0, one.promised_bytes - one.held_bytes) for one in staying)
            available -= max(0, claim.promised - claim.held)
            available -= model.doubted(time.monotonic()) if model is not None else 0
            available = max(0, available)
        if self._cap is not None:
            promised = sum(resident.promised_bytes for resident in staying)
            left = max(0, self._cap - promised - max(claim.promised, claim.held))
        to_come = [one for one in self._roster if one.start_since is not None and one is not model]
        return Room(available, left, sharers=len(to_come) + 1)

    def fits(self, model: Model, without: Collection[Model], squeeze: bool) -> bool:
        """Whether it could be loaded then. Its file was opened."""
        assert model.resident is not None
        guard = model.resident.runner.guard
        if guard is None:
            return True
        try:
            guard.fit(self.room(model, without), squeeze=squeeze)
        except OutOfMemory:
            return False
        return True
