"""How much memory a model takes, predicted from its header and from the settings.

Pure arithmetic, known to the worker that allocates and to the guard that asks before. What was
measured about each part stands beside it; `docs/models.md` has the predictions next to what
workers really took.
"""

from __future__ import annotations

from typing import Literal

import msgspec

KvType = Literal["f16", "q8_0", "q4_0"]

BYTES_PER_ELEMENT = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
MOST_SLOTS = 32
AUTO_CONTEXT = 2048
MOST_DRAFTED = 32
"""Output rows of a step beyond one for each slot. Each takes the memory of a vocabulary's logits
twice: 0.4 MB with 49,152 tokens, 2 MB with Gemma's 256,000."""

MOST_PHYSICAL_BATCH = 512
"""Tokens that llama.cpp computes at once; a larger batch is done in pieces of this size."""

MOST_TEXTS = 64
"""Texts that a model which embeds computes together."""


def embedder_tokens(context: int, trained: int) -> int:
    """Tokens that such a model computes together, all in one piece: what looks ahead cannot be
    computed in several. context: as in the settings. trained: of one text."""
    return min(context or AUTO_CONTEXT, trained)


CELLS = 256
"""llama.cpp rounds the cells of each slot up to a multiple of this."""

PROCESS_BYTES = 42 << 20
"""Anonymous memory of a worker without a model: Python, numpy, llama.cpp's own."""

TOKEN_BYTES = 640
"""What a token of the vocabulary takes beside the weights: in llama.cpp's tables, in the texts that
are kept, and in the trie of the grammars."""


class Shape(msgspec.Struct, frozen=True):
    """The sizes of a model that decide what it takes.

    weights_bytes: as they lie in memory. Those that are repacked for the CPU are a copy; the pages
        of the file that they were read from are not needed again and count as available.
    kv_values: numbers that the KV cache holds for each token, all layers together. Layers with a
        sliding window have as many cells as the others, since a cell that is forgotten cannot be
        cut back to. 0 for models that have none.
    width, inner: of the hidden state, and of the feed-forward part. trained: context in tokens.
    embeds: it makes vectors of texts, in place of logits, and computes a batch in one piece.
    """

    weights_bytes: int
    kv_values: int
    layers: int
    width: int
    inner: int
    heads: int
    vocab: int
    trained: int
    embeds: bool = False


class Plan(msgspec.Struct, frozen=True):
    """How a model is to be loaded. context: tokens of each slot. batch: tokens of a step."""

    slots: int
    context: int
    kv_type: KvType
    batch: int

    def __str__(self) -> str:
        slots = f"{self.slots} slot{'s' * (self.slots > 1)}"
        return f"context {self.context} with {slots} in {self.kv_type}"


class Footprint(msgspec.Struct, frozen=True):
    """The memory of a worker in bytes, when all its slots are full and all its buffers were used.

    buffers: for computing, and the logits that come out of it.
    """

    weights: int
    kv: int
    buffers: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.buffers + self.process

    def beside(self, other: Footprint) -> Footprint:
        """Of two models in one process."""
        return Footprint(
            weights=self.weights + other.weights,
            kv=self.kv + other.kv,
            buffers=self.buffers + other.buffers,
            process=self.process + other.process - PROCESS_BYTES,
        )


def predict(shape: Shape, plan: Plan, draft: Shape | None = None) -> Footprint:
    """What a worker takes of the main memory. Within 15 % where it was measured.

    draft: of the model that drafts, with as many slots and the same context, as far as it was
    trained.
    """
    if draft is not None:
        second = predict(
            draft, msgspec.structs.replace(plan, context=min(plan.context, draft.trained))
        )
        return predict(shape, plan).beside(second)
    outputs = min(max(plan.batch, plan.slots), plan.slots + MOST_DRAFTED)
    logits = 0 if shape.embeds else outputs * shape.vocab * 4
    return Footprint(
        weights=shape.weights_bytes,
        kv=kv_bytes(shape.kv_values, plan),
        buffers=_compute_bytes(shape, plan, logits) + logits,
        process=PROCESS_BYTES + TOKEN_BYTES * shape.vocab,
    )


def kv_bytes(values: int, plan: Plan) -> int:
    """Keys and values of all slots. values: as in `Shape.kv_values`."""
    return int(values * BYTES_PER_ELEMENT[plan.kv_type] * _cells(plan) * plan.slots)


def _cells(plan: Plan) -> int:
    return -(-plan.context // CELLS) * CELLS


def _compute_bytes(shape: Shape, plan: Plan, logits: int) -> int:
    """llama.cpp's buffer for what lies between the layers.

    It reuses memory within a step, so the hungriest part counts. Which tensors are alive in each
    part was read off the sizes that llama.cpp 0.3.36 reports for six families, at batches of 128
    to 512 and contexts of 256 to 2048. The attention part is met exactly by all but those with as
    many key heads as query heads; the other two are met to a quarter.
    """
    most = plan.batch if shape.embeds else MOST_PHYSICAL_BATCH
    tokens = min(max(plan.batch, plan.slots), most, _cells(plan) * plan.slots)
    cells = _cells(plan)
    flash = plan.kv_type != "f16"
    mask = cells * tokens * (2 if flash else 4)
    scores = 0 if flash else cells * tokens * shape.heads * 4
    key_values = shape.kv_values // max(shape.layers, 1)
    attention = scores + tokens * 4 * (5 * shape.width + key_values)
    feed_forward = tokens * 4 * (2 * shape.inner + 6 * shape.width)
    output = logits + tokens * 4 * (2 * shape.inner + 2 * shape.width)
    return mask + max(attention, feed_forward, output)
