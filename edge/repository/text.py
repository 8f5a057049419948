"""What a manifest says of a model that reads texts: the block `text` of model.yaml.

Words only, which the daemon checks when it reads a folder and the worker is sent with the model.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class TextSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tokenizer: file beside the manifest, as Hugging Face's `tokenizers` writes it.

    max_tokens: of a text, or of a query with a document, special tokens included.
    too_long: what becomes of a text with more of them. A document that is scored is always cut.
    pooling: how a text's vector is made of those of its tokens. normalize: to length 1.
    prefixes: what stands before texts of a kind, such as {query: "query: "}; requests name the
    kind as `input_type`.
    activation: what makes a score of a cross-encoder's number. output: the name of the model's
    output that is used; by None the first that fits.
    """

    tokenizer: Annotated[str, Meta(min_length=1)] = "tokenizer.json"
    max_tokens: Annotated[int, Meta(ge=4, le=1_048_576)] = 512
    too_long: Literal["refuse", "truncate"] = "refuse"
    pooling: Literal["mean", "cls", "last"] = "mean"
    normalize: bool = True
    prefixes: dict[str, str] = {}
    activation: Literal["sigmoid", "none"] = "sigmoid"
    output: str | None = None
