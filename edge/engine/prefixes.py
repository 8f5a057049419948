"""Snapshots of computed prefixes, for prompts whose slot was overwritten since.

    add ──► in memory ──► evicted: the least valuable for its bytes
              │  ▲
              ▼  │ bytes on first use
            in a file (`prefix_files.py`), if it was used again

A snapshot serves its owner only, as a slot does. `PrefixStore` is the ledger: it decides what is
kept, the engine takes snapshots and restores them. Owned by the engine's thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge.engine.backend import Snapshot
from edge.engine.prefix import Prefix
from edge.engine.prefix_files import PrefixFiles
from edge.engine.slots import common_prefix

WORTH_KEEPING = 64
"""Tokens that a snapshot must save a later prompt: less is not worth taking and keeping it."""

HALF_LIFE = 256
"""Prompts after which a use counts for half."""

MOST_TRUST = 32
"""Snapshots of prompts seen once that may be useless before the next ones have to be earned."""

EARNED = 1 / 16
"""What every prompt earns: of prompts that never come again, one in so many is kept."""


class PrefixStore:
    """Snapshots of up to `budget` bytes. can_cut: a restored one may be cut to a part of it.
    files: keeps those that last; without it they end with the process."""

    def __init__(self, budget: int, can_cut: bool = True, files: PrefixFiles | None = None) -> None:
        self.budget = budget
        self.can_cut = can_cut
        self.files = files
        self._prefixes: dict[str, list[Prefix]] = {}
        self._pinned: dict[str, Prefix] = {}
        self._clock = 0
        self._trust = float(MOST_TRUST)

    @property
    def count(self) -> int:
        """In memory."""
        return len(self._pinned) + len(self._in_memory())

    @property
    def bytes(self) -> int:
        """In memory."""
        return self._pinned_bytes + sum(one.size for one in self._in_memory())

    @property
    def room(self) -> int:
        """Bytes that a snapshot may have, if all others gave way that can."""
        return self.budget - self._pinned_bytes

    @property
    def trusting(self) -> bool:
        """True while it pays to keep prompts that nobody is known to share."""
        return self._trust >= 1

    def find(self, owner: str, tokens: Sequence[int]) -> tuple[Prefix, int] | None:
        """The owner's snapshot that saves most, and how many of these tokens it has."""
        best: tuple[Prefix, int] | None = None
        for prefix in self._prefixes.get(owner, ()):
            usable = self._usable(prefix, tokens)
            if usable and (best is None or self._is_better(prefix, usable, best)):
                best = prefix, usable
        return best

    def parting(self, owner: str, tokens: Sequence[int]) -> int:
        """How many of these tokens begin a kept prompt too that then differs, usable or not."""
        counts = [
            count
            for prefix in self._prefixes.get(owner, ())
            if (count := common_prefix(prefix.tokens, tokens)) < prefix.prompt
        ]
        return max(counts, default=0)

    def gain(self, owner: str, tokens: Sequence[int]) -> int:
        """How many more of these tokens could be restored if a snapshot of all were kept."""
        found = self.find(owner, tokens)
        return len(tokens) - (found[1] if found else 0)

    def asked(self) -> None:
        """A prompt was looked up: time goes on."""
        self._clock += 1
        self._trust = min(MOST_TRUST, self._trust + EARNED)

    def used(self, prefix: Prefix, count: int) -> None:
        """A prompt had its first `count` tokens restored; of no account for what is not found."""
        if prefix not in self._prefixes.get(prefix.owner, ()):
            return
        if not (prefix.shared or prefix.uses):
            self._trust = min(MOST_TRUST, self._trust + 2)
        prefix.uses += 1
        self._credit(prefix, count)
        self._save(prefix)

    def parted(self, owner: str, tokens: Sequence[int]) -> None:
        """Prompts were seen to have these tokens in common and then to differ."""
        found = self.find(owner, tokens)
        if found is not None and len(found[0].tokens) - found[1] < WORTH_KEEPING:
            prefix, count = found
            prefix.shared = max(prefix.shared, count)
            self._save(prefix)

    def data(self, prefix: Prefix) -> Snapshot | None:
        """The state of a found prefix, out of its file if need be; None if that is of no use."""
        if prefix.data is None and prefix.file is not None and self.files is not None:
            data = self.files.load(prefix)
            if data is not None and self._make_room(prefix.size, self._value(prefix)):
                prefix.data = data
            return data
        return prefix.data

    def take_in(self) -> None:
        """Know of the prefixes that were found in files."""
        for prefix in self.files.found() if self.files is not None else ():
            if self.gain(prefix.owner, prefix.tokens):
                self._credit(prefix, len(prefix.tokens))
                self._prefixes.setdefault(prefix.owner, []).append(prefix)

    def add(self, prefix: Prefix) -> bool:
        """Keep a snapshot; False where that would cost more than it is worth."""
        assert prefix.data is not None
        if not prefix.shared:
            self._trust -= 1
        self._credit(prefix, len(prefix.tokens))
        if not self._make_room(prefix.size, self._value(prefix)):
            return False
        if self.can_cut:
            for other in list(self._prefixes.get(prefix.owner, ())):
                if self._replaces(prefix, other):
                    self.drop(other)
        family = self._prefixes.get(prefix.owner, [])
        kept = [one for one in family if one.data is not None or one.file or one.saving]
        self._prefixes[prefix.owner] = [*kept, prefix]
        self._save(prefix)
        return True

    def drop(self, prefix: Prefix) -> None:
        """Forget a snapshot and its file; one that is gone already is fine."""
        if prefix.file is not None and self.files is not None:
            self.files.remove(prefix.file)
        family = self._prefixes.get(prefix.owner, [])
        if prefix in family:
            family.remove(prefix)
            if not family:
                del self._prefixes[prefix.owner]

    def pin(self, sequence_id: str, prefix: Prefix) -> None:
        """Keep the state of a parked sequence until `unpin`, whatever else has to go."""
        if self._make_room(prefix.size, float("inf")):
            self._pinned[sequence_id] = prefix

    def pinned(self, sequence_id: str) -> Prefix | None:
        return self._pinned.get(sequence_id)

    def unpin(self, sequence_id: str) -> None:
        self._pinned.pop(sequence_id, None)

    @property
    def _pinned_bytes(self) -> int:
        return sum(prefix.size for prefix in self._pinned.values())

    def _in_memory(self) -> list[Prefix]:
        everyone = self._prefixes.values()
        return [prefix for family in everyone for prefix in family if prefix.data is not None]

    def _usable(self, prefix: Prefix, tokens: Sequence[int]) -> int:
        if prefix.data is None and prefix.file is None:
            return 0  # it left memory, and its file is not written yet
        count = common_prefix(prefix.tokens, tokens)
        return count if self.can_cut or count == len(prefix.tokens) else 0

    def _is_better(self, prefix: Prefix, usable: int, best: tuple[Prefix, int]) -> bool:
        """Of those that save the same, the one with less behind it is restored sooner."""
        return usable > best[1] or (usable == best[1] and prefix.size < best[0].size)

    def _replaces(self, new: Prefix, old: Prefix) -> bool:
        """True where the old one is but a beginning of the new one, and not what many share: that
        is wanted for longer than any of those that begin with it."""
        if (old.shared and new.shared < len(new.tokens)) or (old.file and not new.lasting):
            return False
        return new.tokens[: len(old.tokens)] == old.tokens

    def _credit(self, prefix: Prefix, tokens: int) -> None:
        prefix.worth = self._worth(prefix) + tokens
        prefix.worth_at = self._clock

    def _worth(self, prefix: Prefix) -> float:
        """Tokens saved by all uses so far, older ones for less."""
        return prefix.worth * math.pow(0.5, (self._clock - prefix.worth_at) / HALF_LIFE)

    def _value(self, prefix: Prefix) -> float:
        return self._worth(prefix) / prefix.size

    def _make_room(self, size: int, value: float) -> bool:
        """Evict what is worth less than `value` a byte until so many fit, or nothing."""
        spare = self.budget - self.bytes
        victims: list[Prefix] = []
        for prefix in sorted(self._in_memory(), key=self._value):
            if spare >= size or self._value(prefix) > value:
                break
            victims.append(prefix)
            spare += prefix.size
        if spare < size:
            return False
        for prefix in victims:
            if prefix.file is not None or prefix.saving:
                prefix.data = None
            else:
                self.drop(prefix)
        return True

    def _save(self, prefix: Prefix) -> None:
        """Have a file of what lasts, or let it be known that it was used."""
        if self.files is None or not prefix.lasting:
            return
        if prefix.file is not None:
            self.files.touch(prefix.file, prefix.uses)
        elif not prefix.saving:
            self.files.save(prefix)
