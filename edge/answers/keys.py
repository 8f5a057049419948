"""Which requests may share an answer: what the file is asked for. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from edge.types import Request, Sampling

VERSION = 3
"""Of what a key is made of and of what is kept under it: other versions are not found."""


def cacheable(request: Request, wanted: bool | None) -> bool:
    """True where the answer may be used again; `wanted` is what the caller said to it, if anything.

    By default where the request decides its answer: at temperature 0, or with a seed.
    """
    if wanted is not None:
        return wanted
    return request.sampling.temperature == 0 or request.sampling.seed is not None


def key(request: Request, target: str, namespace: str) -> bytes:
    """The SHA-256 of all that decides the answer.

    target: the model and the identity of its file, so that another file is another answer.
    namespace: requests of different ones never share. Where `max_tokens` is None the configured
    default decides, so it has to be filled in before.
    """
    deciding = (
        VERSION,
        namespace,
        target,
        request.prompts,
        _canonical(request.sampling),
        request.max_tokens,
        request.stop,
        request.ignore_eos,
        request.logprobs,
        request.n,
        request.grammar,
    )
    return hashlib.sha256(msgspec.msgpack.encode(deciding)).digest()


def _canonical(sampling: Sampling) -> Sampling:
    """One spelling for each way to sample: 0, 0.0 and -0.0 are one number, biases have an order."""
    greedy = sampling.temperature == 0
    return Sampling(
        temperature=sampling.temperature + 0.0,
        top_p=sampling.top_p + 0.0,
        top_k=sampling.top_k,
        min_p=sampling.min_p + 0.0,
        presence_penalty=sampling.presence_penalty + 0.0,
        frequency_penalty=sampling.frequency_penalty + 0.0,
        repeat_penalty=sampling.repeat_penalty + 0.0,
        # Nothing is drawn by lot at temperature 0.
        seed=None if greedy else sampling.seed,
        logit_bias={token: bias + 0.0 for token, bias in sorted(sampling.logit_bias.items())},
    )
