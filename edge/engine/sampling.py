"""The choice of the next token: the likeliest, or by a sampler chain; log probabilities.

A `Sampler` is owned by one sequence. Everything in it can be replayed: after a worker died, the
same tokens bring it to the same state, so a resumed answer goes on as it would have. Samplers of
several sequences may choose at the same time, each from a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edge.engine.backend import Backend, Chain, Logits, Vocabulary
from edge.engine.grammar import Constraint
from edge.engine.penalties import Penalties
from edge.errors import InvalidRequest
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

    @property
    def quick(self) -> bool:
        """A choice costs next to nothing: it is the likeliest token of logits as they are."""
        plain = self._chain is None and self._penalties.idle
        return plain and self.constraint is None and self.logprobs is None

    def choose(self, row: int) -> Choice:
        """Pick from output row `row` of the last decode.

        Raises `InvalidRequest` when the grammar has become too complex.
        """
        logits = self.backend.logits()[row]
        own = logits if self.logprobs is None else logits.copy()
        # In place, for the chain reads the same memory.
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

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()
            self._chain = None


class Choosers:
    """Threads in which samplers choose side by side. What a choice costs is mostly native code,
    which holds up no other thread; the choices are what they would be one after the other."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "chooser") if threads > 1 else None

    def choose(self, asked: Sequence[tuple[Sampler, int]]) -> list[Choice | InvalidRequest]:
        """The choice of each sampler from its row, or why it cannot choose."""
        costly = sum(not sampler.quick for sampler, _ in asked)
        if self._pool is None or costly < 2:
            return [_choice(sampler, row) for sampler, row in asked]
        return list(self._pool.map(_choice, *zip(*asked, strict=True)))


def _choice(sampler: Sampler, row: int) -> Choice | InvalidRequest:
    try:
        return sampler.choose(row)
    except InvalidRequest as error:
        return error


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
        likeliest = np.argpartition(logits, -count)[-count:]
        top = [alternative(int(t)) for t in likeliest[np.argsort(-logits[likeliest])]]
    return TokenLogprob(alternative(chosen), top)
