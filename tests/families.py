"""Small models of the families that the catalog has, as their makers lay out their files.

The weights are random and few, so that nobody has to fetch anything. All else is as it is in the
real files: architecture and what belongs to it, the kind of tokenizer, which tokens are control
tokens, what ends an answer, and what the template makes of a conversation. Of words they know
letters: a text is as many tokens as it has characters.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import full_size
import gguf
import numpy as np

Kind = gguf.TokenType

TINYLLAMA = """
{%- for turn in messages %}
{%- if turn.role in ('system', 'user', 'assistant') %}
{{- '<|' + turn.role + '|>\n' + turn.content + eos_token + '\n' }}
{%- endif %}
{%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
{%- endfor %}
"""

PHI3 = """
{%- for turn in messages %}
{%- if turn.role in ('system', 'user', 'assistant') %}
{{- '<|' + turn.role + '|>\n' + turn.content + '<|end|>\n' }}
{%- endif %}
{%- endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}
"""

PHI3_OF_ITS_GGUF = """
{{- bos_token }}
{%- for turn in messages %}
{%- if turn.role == 'user' %}{{ '<|user|>\n' + turn.content + '<|end|>\n<|assistant|>\n' }}
{%- elif turn.role == 'assistant' %}{{ turn.content + '<|end|>\n' }}
{%- endif %}
{%- endfor %}
"""

GEMMA = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}
{%- for turn in messages %}
{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('user and assistant have to take turns') }}
{%- endif %}
{%- set role = 'model' if turn.role == 'assistant' else turn.role %}
{{- '<start_of_turn>' + role + '\n' + turn.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{{- '<start_of_turn>model\n' if add_generation_prompt }}
"""


class Chat(NamedTuple):
    """How a family talks. name: what its files are called, for llama.cpp looks at it.

    control: its control tokens, in their order. bos, eos, ends: of them. blank: whether the
    tokenizer puts one before a text. unstrict: control tokens swallow the white space behind them.
    """

    name: str
    template: str
    control: tuple[str, ...]
    bos: str
    eos: str
    ends: tuple[str, ...]
    blank: bool
    swallows: bool = False


PHI3_CHAT = Chat(
    name="Phi3",
    template=PHI3,
    control=(
        *("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>"),
        *("<|system|>", "<|end|>", "<|user|>"),
    ),
    bos="<s>",
    eos="<|endoftext|>",
    ends=("<|end|>", "<|endoftext|>"),
    blank=True,
    swallows=True,
)
GEMMA_CHAT = Chat(
    name="gemma-2b-it",
    template=GEMMA,
    control=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    eos="<eos>",
    ends=("<end_of_turn>", "<eos>"),
    blank=False,
)
CHATS = {
    "tinyllama": Chat(
        name="TinyLlama",
        template=TINYLLAMA,
        control=("<unk>", "<s>", "</s>"),
        bos="<s>",
        eos="</s>",
        ends=("</s>",),
        blank=True,
    ),
    "phi-3": PHI3_CHAT,
    "phi-3-gguf": PHI3_CHAT._replace(template=PHI3_OF_ITS_GGUF),
    "gemma": GEMMA_CHAT,
    "gemma-2": GEMMA_CHAT._replace(name="gemma-2-2b-it"),
}
NAMES = tuple(CHATS)

SIZES = {
    "tinyllama": full_size.Family("llama", 3, 64, 4, 2, 16, 96, 0, 512),
    "phi-3": full_size.Family("phi3", 3, 64, 4, 4, 16, 96, 0, 512),
    "gemma": full_size.Family("gemma", 3, 64, 4, 1, 16, 96, 0, 512, tied=True),
    "gemma-2": full_size.Family("gemma2", 4, 64, 4, 2, 16, 96, 0, 512, tied=True),
}
SIZES["phi-3-gguf"] = SIZES["phi-3"]

BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
LETTERS = tuple(chr(number) for number in range(33, 127))
BLANK = "▁"


def tokens_of(name: str) -> list[str]:
    """All tokens by their number."""
    return [*CHATS[name].control, *BYTES, BLANK, *LETTERS]


def ids(name: str, *parts: str) -> list[int]:
    """Token numbers of texts and control tokens, the latter as parts of their own."""
    known = {text: number for number, text in enumerate(tokens_of(name))}

    def number(character: str) -> int:
        return known[BLANK if character == " " else "<0x0A>" if character == "\n" else character]

    return [
        one
        for part in parts
        for one in ([known[part]] if part in CHATS[name].control else map(number, part))
    ]


def write(path: Path, name: str, sizes: full_size.Family | None = None) -> Path:
    """A file of the family, of its small sizes if no others are given."""
    chat = CHATS[name]
    family = (sizes or SIZES[name])._replace(vocabulary=len(tokens_of(name)))
    writer = gguf.GGUFWriter(path, family.architecture)
    writer.add_name(chat.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    full_size.add_sizes(writer, family)
    add_tokenizer(writer, name)
    writer.add_chat_template(chat.template)
    for number, (tensor, shape) in enumerate(full_size.tensors(family)):
        chance = np.random.default_rng(number)
        weights = (
            np.ones(shape) if len(shape) == 1 else chance.normal(0, 1.5 * shape[-1] ** -0.5, shape)
        )
        writer.add_tensor(f"{tensor}.weight", weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, name: str) -> None:
    chat, tokens = CHATS[name], tokens_of(name)
    kinds = [Kind.UNKNOWN if text == "<unk>" else Kind.CONTROL for text in chat.control]
    kinds += [Kind.BYTE] * len(BYTES) + [Kind.NORMAL] * (1 + len(LETTERS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(tokens.index(chat.bos))
    writer.add_eos_token_id(tokens.index(chat.eos))
    writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(chat.blank)
