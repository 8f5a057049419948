"""The KV slots of a context: which are free, which run, what each of them holds.

           take                      release
    free ─────────► running ──────────────────────► resident
      ▲                ▲                               │
      └── nothing held │          take (same prefix,   │
                       └─────────── or least recently ◄┘
                                    used)

A resident slot keeps the tokens of a finished sequence, so that a new one that begins with the
same tokens need not compute them again. It is of use to its owner only: how many tokens of a
prompt were there already would tell one caller what another has asked. `Slots` is the ledger
only; it decides, and the engine moves the data. free + running + resident = count, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COPY_PAYS = 64
"""Tokens: below this computing a prefix again costs less than copying a whole slot."""

KEEP_TAIL = 0.5
"""A resident of which the new prompt shares less than this part is copied, not cut, unless it
is the one to give up anyway."""


@dataclass(frozen=True)
class Placement:
    """Where a prompt goes: `slot` will hold its first `cached` tokens, copied from `source`."""

    slot: int
    cached: int
    source: int | None = None


class Slots:
    """The books of slots, by their numbers.

    held: the tokens whose KV is there. owner: whose they are.
    prompt: how many of them were the prompt of the last sequence.
    shared: the longest beginning of them that prompts had in common which then went different ways.
    floor: cut to less than this the slot holds nothing.
    """

    def __init__(self, count: int, can_truncate: bool = True) -> None:
        self.count = count
        self.can_truncate = can_truncate
        self.held: list[list[int]] = [[] for _ in range(count)]
        self.owner = [""] * count
        self.prompt = [0] * count
        self.shared = [0] * count
        self.floor = [0] * count
        self._running: set[int] = set()
        self._used_at = [0] * count
        self._clock = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def free(self) -> int:
        return sum(1 for slot in self._idle() if not self.held[slot])

    @property
    def resident(self) -> int:
        return self.count - self.running - self.free

    @property
    def tokens(self) -> int:
        """Tokens held in all slots."""
        return sum(len(held) for held in self.held)

    def find(self, prompt: Sequence[int], owner: str = "") -> Placement | None:
        """The best place for the owner's prompt, or None when every slot runs. Changes nothing.

        At least one token of the prompt is left to compute: its logits are needed.
        """
        idle = list(self._idle())
        if not idle:
            return None
        shared = {slot: self._usable(slot, prompt, owner) for slot in range(self.count)}
        keeps = {slot: shared[slot] < KEEP_TAIL * len(self.held[slot]) for slot in idle}
        best = max(idle, key=lambda slot: (shared[slot], not keeps[slot], -self._used_at[slot]))
        source = max(range(self.count), key=lambda slot: shared[slot])
        if self.can_truncate and shared[source] >= COPY_PAYS:
            target = self.least_valuable()
            gain = shared[source] - shared[best]
            if gain >= COPY_PAYS or (keeps[best] and target != best):
                return Placement(target, shared[source], source)
        if shared[best]:
            return Placement(best, shared[best])
        return Placement(self.least_valuable(), 0)

    def branches(self, placement: Placement) -> bool:
        """True where the prompt leaves the way of the one that was computed there; one that goes on
        behind it is the next turn of the same conversation."""
        source = placement.slot if placement.source is None else placement.source
        return 0 < placement.cached < self.prompt[source]

    def take(self, placement: Placement, prompt: Sequence[int], owner: str = "") -> None:
        """Mark the slot as running and holding the cached part of the prompt."""
        slot, cached = placement.slot, placement.cached
        assert slot not in self._running
        source = slot if placement.source is None else placement.source
        if self.branches(placement):
            self.shared[source] = max(self.shared[source], cached)
        self._running.add(slot)
        self.shared[slot] = min(self.shared[source], cached)
        self.floor[slot] = self.floor[source] if cached else 0
        self.prompt[slot] = len(prompt)
        self.held[slot] = list(prompt[:cached])
        self.owner[slot] = owner
        self._touch(slot)
        self._touch(source)

    def cut(self, slot: int, length: int) -> None:
        """An idle slot was made to forget what is behind its first `length` tokens."""
        assert slot not in self._running
        del self.held[slot][length:]

    def refill(
        self, slot: int, held: Sequence[int], owner: str, prompt: int, shared: int, floor: int
    ) -> None:
        """An idle slot was made to hold these tokens and no others."""
        assert slot not in self._running
        self.held[slot], self.owner[slot] = list(held), owner
        self.prompt[slot], self.shared[slot], self.floor[slot] = prompt, shared, floor

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """The KV of these tokens was computed behind what the slot holds."""
        self.held[slot].extend(tokens)

    def take_back(self, slot: int, length: int) -> None:
        """All but the first `length` tokens of a running slot turned out wrong, and are gone."""
        del self.held[slot][length:]

    def release(self, slot: int) -> None:
        """The sequence is over; what the slot holds stays for others."""
        self._running.remove(slot)
        self._touch(slot)

    def _idle(self) -> list[int]:
        return [slot for slot in range(self.count) if slot not in self._running]

    def _touch(self, slot: int) -> None:
        self._clock += 1
        self._used_at[slot] = self._clock

    def _usable(self, slot: int, prompt: Sequence[int], owner: str) -> int:
        if self.owner[slot] != owner:
            return 0
        held = self.held[slot]
        shared = min(common_prefix(held, prompt), len(prompt) - 1)
        if shared < self.floor[slot] or (not self.can_truncate and shared < len(held)):
            return 0
        return shared

    def least_valuable(self) -> int:
        """An idle slot to overwrite: a free one, next to running ones if possible, else the least
        recently used.

        llama.cpp computes only slots with consecutive numbers together (`split_equal` in
        llama-batch.cpp): every gap among the running ones costs another pass over the weights.
        """
        idle = list(self._idle())
        free = [slot for slot in idle if not self.held[slot]]
        if free:
            return min(free, key=lambda slot: (self._gaps_with(slot), slot))
        return min(idle, key=lambda slot: self._used_at[slot])

    def _gaps_with(self, slot: int) -> int:
        running = self._running | {slot}
        return sum(1 for s in running if s + 1 not in running)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two lists share at their beginning; slices compare at C speed."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
