"""One generation: its tokens, how far they are computed, its text, its end.

A sequence carries its own progress, so that the scheduler needs no memory of it. It belongs to
the engine's thread from `submit` on.
"""

from __future__ import annotations

from edge.engine.backend import Vocabulary
from edge.engine.sampling import Sampler
from edge.engine.text import TextStream
from edge.types import Delta, FinishReason, Generation, TokenLogprob, Usage


class Sequence:
    """`tokens` is the prompt, then what was generated; the first `computed` are in the slot."""

    def __init__(
        self, generation: Generation, prompt: list[int], limit: int, vocabulary: Vocabulary
    ) -> None:
        self.id = generation.id
        self.generation = generation
        self.vocabulary = vocabulary
        self.tokens = prompt
        self.prompt_tokens = len(prompt)
        self.limit = limit
        self.text = TextStream(generation.stop)
        self.sampler: Sampler | None = None
        self.slot: int | None = None
        self.computed = 0
        self.cached_tokens = 0
        self.reason: FinishReason | None = None
        self.started_at = 0.0
        self.first_token_at = 0.0
        self._held_logprobs: list[tuple[int, TokenLogprob]] = []

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens that have to be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """True when the next step yields a token from a single computed one."""
        return self.pending == 1 and self.generated > 0

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
            self.append(token, None)
            if self.reason:
                break

    def append(self, token: int, logprob: TokenLogprob | None) -> Delta:
        """Add a chosen token. Sets `reason` when it was the last."""
        self.tokens.append(token)
        if self.vocabulary.is_end(token) and not self.generation.ignore_eos:
            self.reason = "stop"
            return self._delta(token, self.text.finish())
        start = self.text.length
        text = self.text.push(self.vocabulary.piece(token))
        if logprob is not None:
            self._held_logprobs.append((start, logprob))
        if self.text.stopped:
            self.reason = "stop"
        elif self.generated >= self.limit:
            self.reason = "length"
            text += self.text.finish()
        return self._delta(token, text)

    def _delta(self, token: int, text: str) -> Delta:
        return Delta(self.id, [token], text, self._ready_logprobs())

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
        )
