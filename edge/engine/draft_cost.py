"""What drafted tokens cost in a step, learned from the steps, and how many of them pay.

On a CPU a further token costs half as much as a step of its own or more, and a model that makes the
drafts takes time before the step. Owned by the `Drafter`.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from typing import NamedTuple

LONGEST = 15
"""Most that is drafted for a sequence in a step."""

TRIAL = 2
"""As long as nothing is known of what a drafted token costs."""

GROWTH = 2
"""Times as many in a step as ever were measured at most, because costs are not linear."""

STRETCH = 2.0
"""Most that drafts may lengthen a step that others are in."""

WORTH = 1.02
"""Least gain that is expected of drafts that are made: what they cost is never known well."""

PLAIN_MEMORY = 0.2
"""Weight of the newest step without drafts in the running mean of its time."""

COST_MEMORY = 0.9
"""Weight of all earlier steps with drafts beside the newest."""

INERTIA = 0.1
"""How much must vary in the numbers of tokens, squared, before what each costs follows it."""

HICCUP = 1.5
"""More than this above what a step should take does not count: the machine was busy elsewhere."""

REFRESH_STEPS = 32
"""Steps with drafts in a row, after which one without is due, to measure it again."""

DOUBT = 0.9985
"""What a step whose drafts were refused makes of the known cost: a bad measurement must not last
for ever, and a trial every hundred steps is not felt."""


class Offer(NamedTuple):
    """What may be drafted for a sequence.

    chance: that a token is there and right, if all before it were. most: how many there can be.
    behind: tokens that a model has to compute before it makes the first of them; 0 where no model
        makes them, and they cost no time. sure: chance that it makes one, if all before it are
        there; without one nothing has to be verified.
    """

    chance: float
    most: int
    behind: int = 0
    sure: float = 1.0
    id: str = ""


class Choice(NamedTuple):
    """So many tokens for each of so many sequences, those of the first offers that have as many.

    rate: tokens that are expected of the step, in the time of a step without drafts.
    """

    length: int
    sequences: int
    rate: float

    def of(self, offers: Row[Offer]) -> list[Offer]:
        """Those that are meant. offers: as they were chosen from."""
        return [offer for offer in offers if offer.most >= self.length][: self.sequences]


class LinearTime:
    """Seconds that some tokens take: joining + each * tokens.

    Of drafts in a step, beyond what it takes without: llama.cpp computes sequences with unequal
    numbers of tokens one batch after another, so a step pays for having any, and besides for each
    token. Of a draft model's steps: for reading its weights, and for each token. Both are fitted to
    the latest steps by least squares. Steps with as many tokens as ever say nothing about one of
    the two: then `each` stays what it was. It begins with 0, which invites longer drafts, and these
    tell.
    """

    def __init__(self) -> None:
        self.joining = self.each = 0.0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self._weight > 0

    def of(self, tokens: int) -> float:
        return self.joining + self.each * tokens

    def observe(self, tokens: int, seconds: float) -> None:
        self._weight = COST_MEMORY * self._weight + 1
        self._x = COST_MEMORY * self._x + tokens
        self._y = COST_MEMORY * self._y + seconds
        self._xx = COST_MEMORY * self._xx + tokens * tokens
        self._xy = COST_MEMORY * self._xy + tokens * seconds
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x**2
        covariance = self._xy / self._weight - mean_x * mean_y
        self.each = max(0.0, (covariance + INERTIA * self.each) / (variance + INERTIA))
        self.joining = mean_y - self.each * mean_x
        if self.joining < 0:
            self.joining, self.each = 0.0, self._xy / self._xx

    def doubt(self) -> None:
        """Take all for a little cheaper than it was seen to be."""
        self.joining *= DOUBT
        self.each *= DOUBT
        self._y *= DOUBT
        self._xy *= DOUBT


class DraftCost:
    """What drafted tokens were seen to cost, in seconds; and how many of them pay.

    guessing: what the steps of the model take that makes drafts, if there is one.
    """

    def __init__(self) -> None:
        self.guessing = LinearTime()
        self._plain: dict[int, float] = {}
        self._extra = LinearTime()
        self._most = TRIAL
        self._drafted_in_a_row = 0

    def observe(self, sequences: int, drafted: int, seconds: float) -> None:
        """A step of so many generating sequences, with so many drafted tokens, took that long."""
        plain = self._plain.get(sequences)
        if drafted == 0:
            known = seconds if plain is None else plain
            change = min(seconds, known * HICCUP) - known
            self._plain[sequences] = known + PLAIN_MEMORY * change
            self._drafted_in_a_row = 0
            return
        self._drafted_in_a_row += 1
        self._most = max(self._most, drafted)
        if plain is None:
            return
        if self._extra:
            seconds = min(seconds, HICCUP * (plain + self._extra.of(drafted)))
        self._extra.observe(drafted, max(seconds - plain, 0.0))

    def plain(self, sequences: int) -> float:
        """Seconds of a step of so many sequences without drafts; 0 for not known."""
        return self._plain.get(sequences, 0.0)

    def checking(self, tokens: int) -> float:
        """Seconds by which so many drafted tokens lengthen a step."""
        return self._extra.of(tokens)

    def room(self, sequences: int) -> int:
        """Tokens that may be drafted in a step, all sequences together."""
        plain = self._plain.get(sequences)
        if plain is None or self._drafted_in_a_row >= REFRESH_STEPS:
            return 0
        if not self._extra:
            return TRIAL
        room = GROWTH * self._most
        if sequences == 1 or not self._extra.each:
            return room
        allowed = (STRETCH - 1) * plain - self._extra.joining
        return max(0, min(room, int(allowed / self._extra.each)))

    def best(self, sequences: int, offers: Row[Offer], room: int) -> Choice:
        """What makes the most tokens for the time of the step; nothing, where no drafts pay.

        offers: best first. All drafts of a step are equally long, because each other length were a
        batch of its own. With chance a for each token a draft of k adds a + a² + … + aᵏ tokens on
        average (Leviathan, Kalman and Matias 2023), as long as all before were right.
        """
        best = Choice(0, 0, WORTH * sequences)
        gains = [0.0] * len(offers)
        for length in range(1, max((offer.most for offer in offers), default=0) + 1):
            gains = [gain + offer.chance**length for gain, offer in zip(gains, offers, strict=True)]
            made = float(sequences)
            long = [one for one in zip(gains, offers, strict=True) if one[1].most >= length]
            chosen: list[Offer] = []
            for gain, offer in long[: room // length]:
                made += gain
                chosen.append(offer)
                time = 1 + self._lengthens(length, chosen) / self._plain[sequences]
                # `room` is careful already about what copies take.
                long_for_others = sequences > 1 and time > STRETCH and any(o.behind for o in chosen)
                if made / time > best.rate and not long_for_others:
                    best = Choice(length, len(chosen), made / time)
        return best

    def _lengthens(self, length: int, chosen: Row[Offer]) -> float:
        """Seconds that making and verifying drafts of that length is expected to take. A model
        writes for all in one step, as long as it is sure of any."""
        guessed = [offer for offer in chosen if offer.behind]
        if not guessed:
            return self._extra.of(length * len(chosen))
        sure = sum(offer.sure for offer in guessed) / len(guessed)
        going_on = [len(guessed) * sure**place for place in range(1, length + 1)]
        some = [1 - (1 - sure**place) ** len(guessed) for place in range(1, length + 1)]
        copied = length * (len(chosen) - len(guessed))
        verifying = self._extra.each * (sum(going_on) + copied)
        verifying += self._extra.joining * (1 if copied else some[0])
        writing = self.guessing.of(sum(offer.behind for offer in guessed))
        writing += self.guessing.each * sum(going_on[:-1]) + self.guessing.joining * sum(some[:-1])
        return verifying + writing

    def doubt(self) -> None:
        """Drafts were at hand in a step and not worth their cost, as far as that is known."""
        self._extra.doubt()
