"""Computes the logits of a model for fixed texts, and a greedy answer, with whatever llama.cpp is
installed; writes them to a file for agree.py. Runs on the board's architecture and on this one.

Each text is decoded whole, by the kernels for many rows, and its end once more token by token, by
those for one.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

TEXTS = (
    "The valve of the second press was replaced on Monday, because it had been leaking oil since",
    "Die Temperatur im Schaltschrank ist zu hoch. Bitte prüfen Sie zuerst den Lüfter und dann",
    '{"machine": "press-07", "state": "stopped", "alarms": [{"code": 1042, "text": "door open"}',
    "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584",
)
ANSWER = 16
"""Tokens that are generated after the first text."""
SINGLE = 8
"""Tokens at the end of each text that are decoded alone. An emulator takes a second for each."""

Rows = np.ndarray[Any, np.dtype[np.float32]]


class Model:
    """A model with one sequence."""

    def __init__(self, path: Path, threads: int) -> None:
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise SystemExit(f"Error: llama.cpp cannot load {path}")
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch = 512, 512
        settings.n_threads = settings.n_threads_batch = threads
        self._context = lib.llama_init_from_model(self._model, settings)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocabulary: int = lib.llama_vocab_n_tokens(self._vocab)

    def tokens(self, text: str) -> list[int]:
        raw = text.encode()
        # A token for each byte at most, and one for the space that some put in front.
        room = (lib.llama_token * (len(raw) + 1))()
        count = lib.llama_tokenize(self._vocab, raw, len(raw), room, len(room), False, False)
        return list(room[:count])

    def keep(self, length: int) -> None:
        """Forget what was decoded after the first `length` tokens."""
        lib.llama_memory_seq_rm(lib.llama_get_memory(self._context), 0, length, -1)

    def decode(self, tokens: list[int], start: int) -> Rows:
        """The logits after each of these tokens, which begin at position `start`."""
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = 1
        batch.n_tokens = len(tokens)
        status = lib.llama_decode(self._context, batch)
        lib.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"Error: llama_decode failed with {status}")
        shape = (len(tokens), self.vocabulary)
        rows: Rows = np.ctypeslib.as_array(lib.llama_get_logits(self._context), shape).copy()
        return rows

    def piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(64)
        count = lib.llama_token_to_piece(self._vocab, token, room, len(room), 0, False)
        return room.raw[: max(0, count)]


def logits(model: Model, texts: int) -> Rows:
    rows = []
    for text in TEXTS[:texts]:
        tokens = model.tokens(text)
        model.keep(0)
        rows.append(model.decode(tokens, 0))
        whole = len(tokens) - SINGLE
        model.keep(whole)
        rows += [model.decode([token], whole + at) for at, token in enumerate(tokens[whole:])]
    return np.concatenate(rows)


def answer(model: Model) -> str:
    tokens = model.tokens(TEXTS[0])
    model.keep(0)
    row, said = model.decode(tokens, 0)[-1], b""
    for at in range(len(tokens), len(tokens) + ANSWER):
        token = int(row.argmax())
        said += model.piece(token)
        row = model.decode([token], at)[-1]
    return said.decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--texts", type=int, default=len(TEXTS), help="how many of them")
    options = parser.parse_args()
    model = Model(options.model, options.threads)
    text = answer(model)
    np.savez(options.output, logits=logits(model, options.texts), answer=text)
    sys.stdout.write(f"{lib.llama_print_system_info().decode()}\nanswers: {text!r}\n")


if __name__ == "__main__":
    main()
