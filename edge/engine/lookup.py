"""What a sequence may say next: what stood behind its latest tokens the last time they were there.

An answer that repeats its input (extraction, rewriting, JSON of given fields) can be looked up in
it while it lasts (prompt lookup decoding, Saxena 2023). A `Lookup` belongs to its sequence.
"""

from __future__ import annotations

MATCH = 3
"""Tokens that have to agree before what stood behind them is expected again. Played over recorded
answers of a small model, 3 gave the most; 2 and 4 cost 1 to 5 % of copied texts."""

EXPECTED = 0.5
"""Chance that a looked-up token is right, of a sequence of which nothing is known."""

MEMORY = 0.1
"""Weight of the newest token in that chance."""


class Lookup:
    """Follows one sequence's tokens, and knows what came after the latest ones the last time.

    chance: that the next token is the expected one. It is learned whether or not anything is
    drafted, so a sequence that begins to repeat is noticed for nothing.
    """

    def __init__(self, tokens: list[int], prompt_tokens: int) -> None:
        """tokens: the sequence's own list, which grows. Only what is behind the prompt counts."""
        self.chance = EXPECTED
        self._tokens = tokens
        self._prompt_tokens = prompt_tokens
        self._seen = 0
        self._behind: dict[tuple[int, ...], int] = {}
        self._source: int | None = None

    def follow(self) -> None:
        """Go on behind the tokens that were added since. Has to be called before `draft`."""
        tokens = self._tokens
        for at in range(self._seen, len(tokens)):
            source = self._source
            if source is not None and at >= self._prompt_tokens:
                right = tokens[source] == tokens[at]
                self.chance += MEMORY * (right - self.chance)
                self._source = source = source + 1 if right else None
            end = at + 1
            if end < MATCH:
                continue
            latest = tuple(tokens[end - MATCH : end])
            if source is None and end >= self._prompt_tokens:
                self._source = self._behind.get(latest)
            self._behind[latest] = end
        self._seen = len(tokens)

    def draft(self, length: int) -> list[int]:
        """Up to so many tokens that may come next; none if nothing like this was there before."""
        source = self._source
        return [] if source is None else self._tokens[source : source + length]
