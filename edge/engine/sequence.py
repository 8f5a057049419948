"""One generation: its tokens, how far they are computed, its text, its end.

A sequence carries its own progress, so that the scheduler needs no memory of it. It belongs to
the engine's thread from `submit` on.
"""

from __future__ import annotations

from edge.engine.backend import Vocabulary
from edge.engine.grammar import Constraint
from edge.engine.lookup import Lookup
from edge.engine.sampling import Sampler
from edge.engine.text import TextStream
from edge.errors import InvalidRequest
from edge.toolcalls import TRIGGER
from edge.types import ChatPrompt, Delta, FinishReason, Generation, Priority, TokenLogprob, Usage

RANK: dict[Priority, int] = {"critical": 0, "normal": 1, "batch": 2}

AGED_SECONDS = 20.0
"""A batch sequence that has waited so long ranks as a normal one, so that a stream of these does
not keep it waiting forever. Never as critical: it parks nobody."""


class Sequence:
    """`tokens` is the prompt, then what was generated; the first `computed` are in the slot.

    failure: why it cannot go on, where its grammar did not allow for an end.
    waiting_since: when it came, or lost its slot; of the clock that the engine was given.
    parks: how often it lost its slot.
    """

    def __init__(
        self,
        generation: Generation,
        prompt: list[int],
        limit: int,
        vocabulary: Vocabulary,
        constraint: Constraint | None = None,
    ) -> None:
        self.id = generation.id
        self.generation = generation
        self.vocabulary = vocabulary
        self.tokens = prompt
        self.prompt_tokens = len(prompt)
        self.limit = limit
        self.constraint = constraint
        self.text = TextStream(generation.stop, TRIGGER if _may_call(generation) else None)
        self.sampler: Sampler | None = None
        self.slot: int | None = None
        self.computed = 0
        self.cached_tokens = 0
        self.forced_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self.lookup = Lookup(prompt, len(prompt))
        self.reason: FinishReason | None = None
        self.failure: InvalidRequest | None = None
        self.waiting_since = 0.0
        self.parks = 0
        self._aged = False
        self.started_at = 0.0
        self.first_token_at = 0.0
        self._prefill = len(prompt)
        self._held_logprobs: list[tuple[int, TokenLogprob]] = []
        self._unsaid: list[int] = []
        self._unsaid_text = ""

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens that have to be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """True behind the prompt, and all that is computed along with it."""
        return self.computed >= self._prefill

    @property
    def owner(self) -> str:
        """Whose its KV is; a caller is a hash or nothing, so that none is called like this."""
        return "shared" if self.generation.shared_prefix else self.generation.caller

    @property
    def caller(self) -> str:
        return self.generation.caller

    @property
    def rank(self) -> int:
        """Place of its priority: the most urgent is 0."""
        return RANK["normal" if self._aged else self.generation.priority]

    @property
    def urgent(self) -> bool:
        return self.rank == 0

    @property
    def unread(self) -> bool:
        """It is batch work, and so nobody waits for its next token."""
        return self.generation.priority == "batch"

    @property
    def parked(self) -> bool:
        """It has begun and lost its slot."""
        return self.slot is None and self.sampler is not None

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.failure is not None

    def waits(self, now: float) -> None:
        """It has no slot from now on."""
        self.waiting_since, self._aged = now, False

    def age(self, now: float) -> None:
        """Rank higher if it has waited for long, for a slot or in it for its first token."""
        if self.generation.priority == "batch":
            self._aged = self._aged or now - self.waiting_since >= AGED_SECONDS

    def late(self, now: float) -> bool:
        """Nobody wants the answer any more."""
        deadline = self.generation.deadline
        return deadline is not None and now >= deadline

    def start(self, slot: int, cached: int, sampler: Sampler, now: float) -> None:
        """Take a slot whose first `cached` tokens are ours already.

        Tokens of an earlier run (`resume`) are replayed: they change the state and are not
        sent. Sets `reason` if they reach the end already; what comes after it is ignored.
        """
        self.slot, self.computed, self.sampler = slot, cached, sampler
        self.cached_tokens = min(cached, self.prompt_tokens)
        self.started_at = now
        for token in self.generation.resume:
            sampler.replay(token)
            self._append(token, None)
            if self.ended:
                break
        self.said()
        self._force()
        self._prefill = len(self.tokens)

    def park(self) -> None:
        """Give the slot up and keep all else: text, sampler, grammar."""
        self.slot, self.computed = None, 0
        self.parks += 1

    def go_on(self, slot: int, cached: int) -> None:
        """Take a slot again, whose first `cached` tokens are ours still."""
        self.slot, self.computed = slot, cached
        self._prefill = len(self.tokens)

    def choose(self, token: int, logprob: TokenLogprob | None) -> None:
        """Add a chosen token, and those that the grammar fixes behind it."""
        self._append(token, logprob)
        self._force()

    def said(self) -> Delta | None:
        """What was added and is not sent yet."""
        if not (self._unsaid or self._unsaid_text):
            return None
        delta = Delta(self.id, self._unsaid, self._unsaid_text, self._ready_logprobs())
        self._unsaid, self._unsaid_text = [], ""
        return delta

    def _force(self) -> None:
        """Add what alone can come next. Where log probabilities were promised every token is
        computed by itself, because these have none; the grammar then allows no other."""
        constraint = self.constraint
        if constraint is None or self.ended:
            return
        try:
            if constraint.finished:
                self._end()
                return
            if self.generation.logprobs is not None:
                return
            for token in constraint.forced():
                assert self.sampler is not None
                self.sampler.replay(token)
                self.forced_tokens += 1
                self._append(token, None)
                if self.ended:
                    return
            if constraint.finished:
                self._end()
        except InvalidRequest as error:
            self.failure = error

    def _end(self) -> None:
        """The grammar is complete."""
        self.reason = "stop"
        self._unsaid_text += self.text.finish()

    def _append(self, token: int, logprob: TokenLogprob | None) -> None:
        """Sets `reason` when it was the last."""
        self.tokens.append(token)
        self._unsaid.append(token)
        constraint = self.constraint
        if self.vocabulary.is_end(token) and (constraint or not self.generation.ignore_eos):
            self._end()
            return
        if constraint is not None:
            try:
                constraint.advance(token)
            except InvalidRequest as error:
                self.failure = error
                return
        start = self.text.length
        self._unsaid_text += self.text.push(self.vocabulary.piece(token))
        if logprob is not None:
            self._held_logprobs.append((start, logprob))
        if self.text.stopped:
            self.reason = "stop"
        elif self.generated >= self.limit:
            self.reason = "length" if not self._complete() else "stop"
            self._unsaid_text += self.text.finish()

    def _complete(self) -> bool:
        """The limit and the end of the grammar are reached by the same token."""
        try:
            return self.constraint is not None and self.constraint.finished
        except InvalidRequest:
            return False

    def _ready_logprobs(self) -> list[TokenLogprob]:
        """A token's log probability goes out with its text, and never if a stop string ate it."""
        sent, held = self.text.sent, self._held_logprobs
        clear = self.text.clear and not self.text.stopped
        ready = [entry for start, entry in held if clear or start < sent]
        self._held_logprobs = held[len(ready) :]
        return ready

    def usage(self, now: float) -> Usage:
        first = self.first_token_at or now
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.generated,
            prompt_seconds=first - self.started_at,
            generation_seconds=now - first,
            forced_tokens=self.forced_tokens,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )


def _may_call(generation: Generation) -> bool:
    prompt = generation.prompt
    return (
        isinstance(prompt, ChatPrompt) and prompt.tools is not None and bool(prompt.tools.callable)
    )
