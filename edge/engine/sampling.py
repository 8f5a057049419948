"""The choice of the next token: a greedy fast path, sampler chains, log probabilities.

Owned by one sequence. Everything here can be replayed: after a worker died, the same tokens
bring the sampler to the same state, so a resumed answer goes on as it would have.
"""

from __future__ import annotations

import numpy as np

from edge.engine.backend import Backend, Chain, Logits, Vocabulary
from edge.engine.grammar import Constraint
from edge.types import Alternative, Sampling, TokenLogprob


def is_greedy(sampling: Sampling) -> bool:
    """True when the likeliest token of the raw logits is the answer, and no state is needed."""
    return (
        sampling.temperature == 0
        and not sampling.logit_bias
        and sampling.presence_penalty == 0
        and sampling.frequency_penalty == 0
        and sampling.repeat_penalty == 1
    )


class Sampler:
    """Chooses tokens for one sequence; `logprobs` alternatives are reported beside each.

    constraint: says what may come next. It is not gone forward here.
    """

    def __init__(
        self,
        backend: Backend,
        sampling: Sampling,
        logprobs: int | None,
        constraint: Constraint | None = None,
    ) -> None:
        self.backend = backend
        self.logprobs = logprobs
        self.constraint = constraint
        self._chain: Chain | None = None if is_greedy(sampling) else backend.chain(sampling)

    def choose(self, row: int) -> tuple[int, TokenLogprob | None]:
        """Pick from output row `row` of the last decode.

        Raises `InvalidRequest` when the grammar has become too complex.
        """
        logits = self.backend.logits()[row]
        own = logits
        if self.constraint is not None:
            if self.logprobs is not None:
                own = logits.copy()
            self.constraint.mask(logits)  # the chain reads the same memory
        chain = self._chain
        token = int(np.argmax(logits)) if chain is None else chain.sample(row)
        if self.logprobs is None:
            return token, None
        return token, log_probabilities(own, token, self.logprobs, self.backend.vocabulary)

    def replay(self, token: int) -> None:
        if self._chain is not None:
            self._chain.replay(token)

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()
            self._chain = None


def log_probabilities(
    logits: Logits, chosen: int, count: int, vocabulary: Vocabulary
) -> TokenLogprob:
    """The model's own distribution, before temperature and penalties: log softmax of `logits`.

    logits: shape (vocabulary,). count: how many of the likeliest tokens to report.
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    shifted -= np.log(np.exp(shifted).sum())

    def alternative(token: int) -> Alternative:
        return Alternative(token, vocabulary.piece(token), float(shifted[token]))

    top: list[Alternative] = []
    if count:
        likeliest = np.argpartition(shifted, -count)[-count:]
        top = [alternative(int(t)) for t in likeliest[np.argsort(-shifted[likeliest])]]
    return TokenLogprob(alternative(chosen), top)
