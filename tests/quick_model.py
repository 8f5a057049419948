"""A model that is there at once and says nothing: for tests that are not about what is said.

It has the template, the tokens and the tensors of a TinyLlama (`families.py`), random weights, and
an output that only letters get through: every answer is as long as it was asked to be, one
character for each token, and the same whenever it is greedy. Loading it and a token of it take a
fiftieth of what they take with the real one, so whoever wants to be there in the middle of an
answer has to ask for a long one, or for the real model.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from families import CHATS, LETTERS, SIZES, add_tokenizer, tokens_of
from full_size import add_sizes, tensors

FAMILY = "tinyllama"
CONTEXT = 8192
"""What the real one was trained for."""

CERTAIN = 4.0
"""Spread of the letters' logits: whatever is no letter has 0."""


def write(path: Path) -> Path:
    tokens = tokens_of(FAMILY)
    # Heads that a quantized cache can be made of.
    sizes = SIZES[FAMILY]._replace(heads=2, head=32, vocabulary=len(tokens), context=CONTEXT)
    writer = gguf.GGUFWriter(path, sizes.architecture)
    writer.add_name("quick")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_sizes(writer, sizes)
    add_tokenizer(writer, FAMILY)
    writer.add_chat_template(CHATS[FAMILY].template)
    for number, (tensor, shape) in enumerate(tensors(sizes)):
        chance = np.random.default_rng(number)
        spread = CERTAIN if tensor == "output" else 1.5
        weights = (
            np.ones(shape)
            if len(shape) == 1
            else chance.normal(0, spread * shape[-1] ** -0.5, shape)
        )
        if tensor == "output":
            weights[: len(tokens) - len(LETTERS)] = 0
        writer.add_tensor(f"{tensor}.weight", weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
