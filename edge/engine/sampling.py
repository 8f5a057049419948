"""The choice of the next token: the likeliest, or a random one; log probabilities.

A `Sampler` is owned by one sequence. Everything in it can be replayed: after a worker died, the
same tokens bring it to the same state, so a resumed answer goes on as it would have.
"""

from __future__ import annotations

import math

import numpy as np

from edge.engine.backend import Backend, Chain, Logits, Vocabulary
from edge.engine.draws import likeliest
from edge.engine.grammar import Constraint
from edge.engine.penalties import Penalties
from edge.types import Alternative, Sampling, TokenLogprob

Choice = tuple[int, TokenLogprob | None]


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
        self._penalties = Penalties(sampling)
        # At temperature 0 the likeliest token is the answer, whatever else limits the choice.
        self._chain: Chain | None = None if sampling.temperature == 0 else backend.chain(sampling)

    def choose(self, row: int) -> Choice:
        """Pick from output row `row` of the last decode.

        Raises `InvalidRequest` when the grammar has become too complex.
        """
        logits = self.backend.logits()[row]
        own = logits if self.logprobs is None else logits.copy()
        # In place: the chain reads the same memory.
        self._penalties.apply(logits)
        if self.constraint is not None:
            self.constraint.mask(logits)
        chain = self._chain
        token = int(np.argmax(logits)) if chain is None else chain.sample(row)
        self._penalties.count(token)
        if self.logprobs is None:
            return token, None
        return token, log_probabilities(own, token, self.logprobs, self.backend.vocabulary)

    def replay(self, token: int) -> None:
        self._penalties.count(token)
        if self._chain is not None:
            self._chain.replay(token)


def log_probabilities(
    logits: Logits, chosen: int, count: int, vocabulary: Vocabulary
) -> TokenLogprob:
    """The model's own distribution, before temperature and penalties: log softmax of `logits`.

    logits: shape (vocabulary,). count: how many of the likeliest tokens to report.
    """
    highest = logits.max()
    # In single precision, which is several times as fast over a whole vocabulary and as exact as
    # the logits are; summed up in double precision.
    total = float(np.exp(logits - highest).sum(dtype=np.float64))
    whole = math.log(total)

    def alternative(token: int) -> Alternative:
        logprob = float(logits[token]) - float(highest) - whole
        return Alternative(token, vocabulary.piece(token), logprob)

    top: list[Alternative] = []
    if count:
        top = [alternative(int(token)) for token in likeliest(logits, count)]
    return TokenLogprob(alternative(chosen), top)
