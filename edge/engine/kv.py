"""Where the KV of a prompt comes from: a slot, a copy of one, a snapshot, or nowhere.

    find ──► placement ──► place:  rescue what the slot loses ─► move ─► keep what is shared

The only code that moves the state of sequences. Owned by the engine, which asks it where a sequence
goes and computes what is missing there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from edge.engine.backend import Backend, SnapshotFailed
from edge.engine.prefix import Prefix
from edge.engine.prefixes import WORTH_KEEPING, PrefixStore
from edge.engine.sequence import Sequence
from edge.engine.slots import Placement, Slots

logger = logging.getLogger(__name__)

RESTORE_PAYS = 16
"""Tokens: below this computing them costs less than restoring the prefix they are in."""


@dataclass(frozen=True)
class Restored(Placement):
    """The first `cached` tokens come out of a snapshot."""

    prefix: Prefix = field(kw_only=True)


class KvCache:
    """The slots of a backend, and snapshots of what they held."""

    def __init__(self, backend: Backend, prefixes: PrefixStore) -> None:
        self.backend = backend
        self.slots = Slots(backend.slots, backend.can_truncate)
        self.prefixes = prefixes
        self._parked: dict[str, Sequence] = {}

    def find(self, sequence: Sequence) -> Placement | None:
        """The best place for a sequence, or None when every slot runs. Changes nothing."""
        owner = sequence.owner
        placement = self.slots.find(sequence.tokens, owner)
        if placement is None:
            return None
        if own := self.prefixes.pinned(sequence.id):
            prefix, count, least = own, len(own.tokens), 1
        elif found := self.prefixes.find(owner, sequence.tokens[:-1]):
            prefix, count = found
            # Copying a slot moves all that it has room for, a snapshot what it holds.
            least = RESTORE_PAYS if placement.source is None else 0
        else:
            return placement
        if count - placement.cached < least:
            return placement
        return Restored(self.slots.least_valuable(), count, prefix=prefix)

    def stalls(self, placement: Placement) -> bool:
        """True where running streams would notice the move."""
        if placement.source is not None or isinstance(placement, Restored):
            return True
        return self._loses(placement) is not None or self._is_to_keep(placement)

    def place(self, sequence: Sequence, placement: Placement) -> int:
        """Bring the sequence's KV into its slot; returns how many of its tokens are there."""
        owner = sequence.owner
        keep = self._is_to_keep(placement)
        self._rescue(placement)
        if isinstance(placement, Restored):
            placement = self._restore(placement)
        elif placement.source is None:
            self.backend.truncate(placement.slot, placement.cached)
        elif not (keep and self._copy_by_snapshot(placement, placement.source)):
            self.backend.copy(placement.source, placement.slot, placement.cached)
            keep = False  # the data moves with the next step only
        parted = self.slots.branches(placement)
        self.slots.take(placement, sequence.tokens, owner)
        if not self.backend.can_cut_snapshots:
            # That of the whole prompt was of no use: let the next one be of what is common.
            parting = self.prefixes.parting(owner, sequence.tokens)
            self.slots.shared[placement.slot] = max(self.slots.shared[placement.slot], parting)
        if keep and placement.cached:
            self._keep(placement.slot)
        elif parted:
            self.prefixes.parted(owner, sequence.tokens[: placement.cached])
        self.prefixes.asked()
        self.forget(sequence.id)
        return placement.cached

    def park(self, sequence: Sequence) -> None:
        """The sequence leaves its slot and will come back: what it holds is not lost."""
        assert sequence.slot is not None
        self.slots.release(sequence.slot)
        self._parked[sequence.id] = sequence

    def forget(self, sequence_id: str) -> None:
        """A parked sequence came back, or never will. Unknown ids are fine."""
        self._parked.pop(sequence_id, None)
        self.prefixes.unpin(sequence_id)

    def _is_to_keep(self, placement: Placement) -> bool:
        """True where prompts part, and what they have in common is not kept by itself yet."""
        cached = placement.cached
        if cached < WORTH_KEEPING or self.prefixes.room <= 0:
            return False
        if isinstance(placement, Restored):
            prefix = placement.prefix
            tail = len(prefix.tokens) - cached
            return not prefix.shared and cached < prefix.prompt and tail >= WORTH_KEEPING
        if not self.slots.branches(placement):
            return False
        if placement.source is not None and not self.backend.can_cut_snapshots:
            return False
        source = placement.slot if placement.source is None else placement.source
        return self._gain(source, cached) >= WORTH_KEEPING

    def _gain(self, slot: int, length: int) -> int:
        return self.prefixes.gain(self.slots.owner[slot], self.slots.held[slot][:length])

    def _loses(self, placement: Placement) -> tuple[str, int] | None:
        """What has to be saved before the move: the id of a parked sequence, or none, and how many
        of the slot's tokens."""
        slots, slot = self.slots, placement.slot
        moved = placement.source is not None or isinstance(placement, Restored)
        left = 0 if moved else placement.cached
        held = slots.held[slot]
        if len(held) <= left or self.prefixes.room <= 0:
            return None
        for parked in self._parked.values():
            own = parked.owner == slots.owner[slot]
            if own and parked.tokens[: len(held)] == held and not self.prefixes.pinned(parked.id):
                return parked.id, len(held)
        shared = min(slots.shared[slot], len(held))
        can_cut = slots.floor[slot] <= shared and (slots.can_truncate or shared == len(held))
        if can_cut and self._is_worth(slot, shared, left):
            return "", shared
        prompt = min(slots.prompt[slot], len(held))
        if self.prefixes.trusting and self._is_worth(slot, prompt, left):
            return "", len(held)
        return None

    def _is_worth(self, slot: int, length: int, left: int) -> bool:
        """True if so many of the slot's tokens, of which it will have `left`, are worth keeping."""
        return length - left >= WORTH_KEEPING and self._gain(slot, length) >= WORTH_KEEPING

    def _rescue(self, placement: Placement) -> None:
        """Take a snapshot of what the slot is about to lose, if that is worth it."""
        loss = self._loses(placement)
        if loss is None:
            return
        slot, (parked, length) = placement.slot, loss
        if length < len(self.slots.held[slot]):
            self.backend.truncate(slot, length)
            self.slots.cut(slot, length)
        prefix = self._snapshot(slot)
        if prefix is None:
            return
        if parked:
            self.prefixes.pin(parked, prefix)
        else:
            self.prefixes.add(prefix)

    def _restore(self, placement: Restored) -> Placement:
        """Where that fails, all is computed."""
        slot, count, prefix = placement.slot, placement.cached, placement.prefix
        try:
            data = self.prefixes.data(prefix)
            if data is None:
                raise SnapshotFailed("its file is gone or damaged")
            self.backend.restore(slot, data)
        except SnapshotFailed as error:
            logger.warning("a prefix is computed again: %s", error)
            self.prefixes.drop(prefix)
            self.slots.refill(slot, [], "", 0, 0, 0)
            return Placement(slot, 0)
        if count < len(prefix.tokens):
            self.backend.truncate(slot, count)
        self.prefixes.used(prefix, count)
        floor = 0 if self.backend.can_cut_snapshots else count
        shared = min(prefix.shared, count)
        held = prefix.tokens[:count]
        self.slots.refill(slot, held, prefix.owner, prefix.prompt, shared, floor)
        return Placement(slot, count)

    def _copy_by_snapshot(self, placement: Placement, source: int) -> bool:
        """Copy at once, so that the copy can be kept; False where that fails."""
        try:
            data = self.backend.snapshot(source, self.prefixes.room)
            self.backend.restore(placement.slot, data)
        except SnapshotFailed as error:
            logger.debug("a slot is copied: %s", error)
            return False
        self.backend.truncate(placement.slot, placement.cached)
        return True

    def _keep(self, slot: int) -> None:
        """The slot holds what prompts have in common, and no more."""
        if prefix := self._snapshot(slot):
            prefix.shared = len(prefix.tokens)
            self.prefixes.add(prefix)

    def _snapshot(self, slot: int) -> Prefix | None:
        """Of all that the slot holds; None where it cannot be had."""
        slots = self.slots
        held = slots.held[slot]
        try:
            data = self.backend.snapshot(slot, self.prefixes.room)
        except SnapshotFailed as error:
            logger.debug("a prefix is not kept: %s", error)
            return None
        prompt = min(slots.prompt[slot], len(held))
        shared = slots.shared[slot] if slots.shared[slot] == len(held) else 0
        return Prefix(slots.owner[slot], list(held), data, data.size, prompt, shared)
