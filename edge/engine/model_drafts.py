"""Drafts by a second model: for whom they pay, and for whom that model follows the text at all.

    behind ──► catches up, a piece in a step ──► writes a few tokens ahead ──► they are verified
                     if that is repaid                if that pays

It costs time in three ways: to read the prompt too, to write, and to verify what it wrote. All are
measured, and so is how often it is right. A model that does not pay is left alone but for a trial
now and then, as everything that was measured may change. Owned by the `Drafter`.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Row
from dataclasses import dataclass, field

from edge.engine.draft_cost import GROWTH, LONGEST, STRETCH, TRIAL, DraftCost, Offer
from edge.engine.draft_model import DraftModel
from edge.engine.scheduler import MOST_FORCED
from edge.engine.sequence import Sequence
from edge.engine.slots import common_prefix

READY = MOST_FORCED
"""Tokens that a sequence may be behind and is drafted for in the same step. That many may come of
one: drafts that were right, or what a grammar fixed."""

UNKNOWN = 0.8
"""What is expected of a pair of models of which nothing is known, so that it is tried."""

MEMORY = 0.1
"""Weight of the newest token in a sequence's chances, once many tokens of any are known."""

PAIR_MEMORY = 0.01
"""The same for those of the pair of models."""

FORGET = 0.005
"""How far a sequence's chances go back to those of the pair, for each step without a draft: texts
change, and what came of a few tokens must not last."""

TRIAL_SHARE = 0.01
"""Part of the time that trials may take while the model does not pay."""

TRIAL_DRAFTS = 8
"""Drafts of one trial."""


@dataclass
class Chances:
    """right: that a token which the model writes is what the first one chooses, if all before it
    were. sure: that it is sure enough of a token to write it."""

    right: float = UNKNOWN
    sure: float = UNKNOWN

    def learn(self, right: Row[bool], sure: Row[bool], memory: float) -> None:
        for hit in right:
            self.right += memory * (hit - self.right)
        for hit in sure:
            self.sure += memory * (hit - self.sure)


@dataclass
class Follower:
    """What is known of the sequence in a slot. draft: what was written behind its first `at`
    tokens."""

    id: str
    chances: Chances
    at: int = 0
    draft: list[int] = field(default_factory=list)

    def outcome(self, tokens: list[int]) -> list[bool]:
        """Of each token of the draft that can be judged by now, whether it was right. What comes
        behind a wrong one says nothing."""
        new = tokens[self.at : self.at + len(self.draft)]
        right = common_prefix(self.draft, new)
        wrong = right < len(new)
        self.draft = [] if wrong else self.draft[right:]
        self.at += right
        return [True] * right + [False] * wrong


@dataclass
class Trial:
    """Drafts for one sequence that are not expected to pay."""

    id: str
    left: int = TRIAL_DRAFTS


class ModelDrafts:
    """Decides over a `DraftModel`. cost: what is known of the steps; it is told of the model's."""

    def __init__(self, model: DraftModel, cost: DraftCost) -> None:
        self._model = model
        self._cost = cost
        cost.guessing = model.time
        self._pair = Chances()
        self._judged = 0
        self._followers: dict[int, Follower] = {}
        self._trial: Trial | None = None
        self._credit = 0.0
        self._tried = False

    @property
    def trying(self) -> bool:
        """What was written is to be verified, whether or not it pays."""
        return self._trial is not None

    def follow(self, everyone: Iterable[Sequence]) -> None:
        """Look what came of the drafts. everyone: all that take part in the step."""
        for sequence in everyone:
            assert sequence.slot is not None
            follower = self._followers.get(sequence.slot)
            if follower is None or follower.id != sequence.id:
                chances = Chances(self._pair.right, self._pair.sure)
                self._followers[sequence.slot] = Follower(sequence.id, chances)
                self._model.meet(sequence)
                continue
            if judged := follower.outcome(sequence.tokens):
                self._learn(follower, right=judged)
            elif not follower.draft:
                chances = follower.chances
                chances.right += FORGET * (self._pair.right - chances.right)
                chances.sure += FORGET * (self._pair.sure - chances.sure)

    def write(
        self, everyone: Row[Sequence], copies: Row[Offer], rate: float, room: int
    ) -> dict[str, tuple[Offer, list[int]]]:
        """Drafts by the sequences' ids, where they are expected to make more of the step.

        copies: what can be had for nothing; it makes so many tokens (`rate`) in the time of a step
        without drafts. For a sequence with both the better chance counts.
        """
        offers = self._offers(everyone, copies, room)
        wanted = self._cost.best(len(everyone), [_caught_up(one) for one in offers], room)
        by_id = {sequence.id: sequence for sequence in everyone}
        if wanted.rate > rate:
            repaid = self._cost.plain(len(everyone)) * (1 / rate - 1 / wanted.rate)
            for offer in wanted.of(offers):
                sequence = by_id[offer.id]
                if offer.behind > READY and self._fits(offer, repaid * sequence.generated):
                    self._model.catch_up(sequence, self._piece(len(everyone)))
                    return {}
            ready = [offer for offer in offers if offer.behind <= READY]
            choice = self._cost.best(len(everyone), ready, room)
            if choice.rate > rate:
                self._trial = None
                chosen = [offer for offer in choice.of(ready) if offer.behind]
                return self._write([by_id[offer.id] for offer in chosen], choice.length)
        return self._try([offer for offer in offers if offer.behind], by_id)

    def _offers(self, everyone: Row[Sequence], copies: Row[Offer], room: int) -> list[Offer]:
        """The better one for each sequence, best first."""
        offers = {offer.id: offer for offer in copies}
        for sequence in everyone:
            offer = self._offer(sequence, room)
            if offer and (sequence.id not in offers or offers[sequence.id].chance < offer.chance):
                offers[sequence.id] = offer
        return sorted(offers.values(), key=lambda offer: -offer.chance)

    def _offer(self, sequence: Sequence, room: int) -> Offer | None:
        most = min(LONGEST, room, sequence.limit - sequence.generated - 1)
        # What is fixed already may be more than this step takes, and nothing comes behind it then.
        if most < 1 or sequence.pending > MOST_FORCED:
            return None
        behind = self._model.behind(sequence)
        if behind is None:
            return None
        assert sequence.slot is not None
        chances = self._followers[sequence.slot].chances
        chance = chances.right * chances.sure
        return Offer(chance, most, behind, chances.sure, sequence.id)

    def _fits(self, offer: Offer, seconds: float) -> bool:
        """Whether catching up takes no longer than this: what drafts would have saved so far. That
        is the best guess at what they will save, of an answer of which nobody knows the length."""
        return self._model.time.of(offer.behind) <= seconds

    def _piece(self, sequences: int) -> int:
        """Tokens of a text that it may read in a step, so that the step gets twice as long."""
        time = self._model.time
        fitting = GROWTH * self._model.longest
        if time.each:
            room = (STRETCH - 1) * self._cost.plain(sequences) - time.joining
            fitting = min(fitting, int(room / time.each))
        return max(READY, fitting)

    def _write(self, sequences: Row[Sequence], length: int) -> dict[str, tuple[Offer, list[int]]]:
        made: dict[str, tuple[Offer, list[int]]] = {}
        drafts = self._model.write([(sequence, length) for sequence in sequences])
        for sequence in sequences:
            draft = drafts.get(sequence.id)
            if draft is None:
                continue
            assert sequence.slot is not None
            follower = self._followers[sequence.slot]
            follower.at, follower.draft = len(sequence.tokens), list(draft)
            whole = len(draft) == length or (draft and sequence.vocabulary.is_end(draft[-1]))
            self._learn(follower, sure=[True] * len(draft) + [False] * (not whole))
            if draft:
                offer = Offer(follower.chances.right, len(draft), id=sequence.id)
                made[sequence.id] = offer, draft
        return made

    def _learn(self, follower: Follower, right: Row[bool] = (), sure: Row[bool] = ()) -> None:
        self._judged += len(right)
        first = 1 / (2 + self._judged)
        follower.chances.learn(right, sure, max(MEMORY, first))
        self._pair.learn(right, sure, max(PAIR_MEMORY, first))

    def _try(
        self, offers: Row[Offer], by_id: dict[str, Sequence]
    ) -> dict[str, tuple[Offer, list[int]]]:
        """Go on with a trial, or begin one that what was saved up for it pays."""
        self._credit += TRIAL_SHARE * self._cost.plain(len(by_id))
        known = {offer.id: offer for offer in offers}
        if self._trial and (self._trial.left <= 0 or self._trial.id not in known):
            self._trial = None
        if self._trial is None:
            nearest = min(offers, key=lambda offer: offer.behind, default=None)
            if nearest is None:
                return {}
            price = self._trial_seconds(nearest.behind)
            if not self._tried:
                self._tried, self._credit = True, max(self._credit, price)
            if self._credit < price:
                return {}
            self._trial = Trial(nearest.id)
        offer, sequence = known[self._trial.id], by_id[self._trial.id]
        before = self._model.seconds
        made: dict[str, tuple[Offer, list[int]]] = {}
        if offer.behind > READY:
            self._model.catch_up(sequence, self._piece(len(by_id)))
        else:
            self._trial.left -= 1
            made = self._write([sequence], min(TRIAL, offer.most))
            self._credit -= self._cost.checking(TRIAL)
        self._credit -= self._model.seconds - before
        return made

    def _trial_seconds(self, behind: int) -> float:
        draft = TRIAL * self._model.time.of(1) + self._cost.checking(TRIAL)
        return self._model.time.of(behind) + TRIAL_DRAFTS * draft


def _caught_up(offer: Offer) -> Offer:
    return offer._replace(behind=min(offer.behind, 1))
