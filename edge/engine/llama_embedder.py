"""A model that makes one vector of a text, in llama.cpp: BERT and its kin, and language models that
were trained to embed. What makes it one is `<architecture>.pooling_type` in its file.

All texts that are computed together are one batch, which lasts for no longer than that: nothing of
a text is kept for another. Owned by the worker's main thread; the vocabulary may be used from any.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np

from edge.engine.footprint import MOST_TEXTS, embedder_tokens
from edge.engine.llama import LlamaLog, LlamaModel, LlamaVocabulary
from edge.errors import ModelLoadFailed
from edge.types import EngineSettings, ModelFacts
from edge.vectors import Floats

POOLINGS = {
    lib.LLAMA_POOLING_TYPE_MEAN: "mean",
    lib.LLAMA_POOLING_TYPE_CLS: "cls",
    lib.LLAMA_POOLING_TYPE_LAST: "last",
}


class LlamaEmbedder:
    """Raises `ModelLoadFailed` with the reason when it cannot be loaded.

    longest: tokens of one text at most. tokens, texts: computed together at most.
    """

    def __init__(self, name: str, path: Path, settings: EngineSettings, log: LlamaLog) -> None:
        began = time.monotonic()
        self.name = name
        self.path = path
        self._log = log
        self._model = LlamaModel(name, path, settings, log)
        self.vocabulary = LlamaVocabulary(self._model.pointer)
        self.mapped_bytes = self._model.mapped_bytes
        self.gpu_layers = self._model.gpu_layers
        self.trained = int(lib.llama_model_n_ctx_train(self._model.pointer))
        self.tokens = embedder_tokens(settings.context, self.trained)
        self.longest = min(self.trained, self.tokens)
        self.texts = MOST_TEXTS
        self.width = int(lib.llama_model_n_embd_out(self._model.pointer))
        self._make_context(settings)
        self._placed = log.placement.told()
        self._batch = lib.llama_batch_init(self.tokens, 0, 1)
        if not np.isfinite(self.compute([[0]])).all():
            raise ModelLoadFailed(
                f"{name} computes no numbers: the file may be damaged",
                hint="fetch or copy the model again",
            )
        self.load_seconds = time.monotonic() - began

    def compute(self, rows: Sequence[Sequence[int]]) -> Floats:
        """A vector for each row of tokens: [rows, width], as the model makes them.

        No more rows and tokens than `texts` and `tokens`, and no empty row. Raises RuntimeError
        when the computation failed: the process is then of no more use.
        """
        batch, at = self._batch, 0
        for number, row in enumerate(rows):
            for place, token in enumerate(row):
                batch.token[at], batch.pos[at] = token, place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, number
                batch.logits[at] = 1
                at += 1
        batch.n_tokens = at
        memory = lib.llama_get_memory(self._context)
        if memory:
            lib.llama_memory_clear(memory, True)
        status = lib.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with {status}: {self._log.reason()}")
        lib.llama_synchronize(self._context)
        found = np.empty((len(rows), self.width), np.float32)
        for number in range(len(rows)):
            pointer = lib.llama_get_embeddings_seq(self._context, number)
            found[number] = np.ctypeslib.as_array(pointer, (self.width,))
        return found

    def facts(self, memory_bytes: int) -> ModelFacts:
        model = self._model.pointer
        return ModelFacts(
            name=self.name,
            path=str(self.path),
            architecture=self._model.meta("general.architecture"),
            description=self._model.description(),
            size_bytes=lib.llama_model_size(model),
            parameters=lib.llama_model_n_params(model),
            vocab=self.vocabulary.size,
            train_context=self.trained,
            context=self.longest,
            slots=self.texts,
            backend=self._model.back_end,
            gpu_layers=self.gpu_layers,
            layers=lib.llama_model_n_layer(model) + 1,
            kv_type="f16",
            has_chat_template=False,
            load_seconds=self.load_seconds,
            memory_bytes=memory_bytes,
            system_info=lib.llama_print_system_info().decode("utf-8", "replace").strip(),
            pooling=self.pooling,
            width=self.width,
            flash_attention=self._placed.flash_attention,
            device=self._placed.device,
            left_on_cpu=self._placed.cpu,
        )

    @property
    def shared_bytes(self) -> int:
        """As of a `LlamaBackend`."""
        return self._placed.device_bytes if self._model.shares_memory else 0

    def close(self) -> None:
        """Give all memory back. The object is of no use afterwards."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)
        lib.llama_model_free(self._model.pointer)

    def _make_context(self, settings: EngineSettings) -> None:
        params = lib.llama_context_default_params()
        # What does not look ahead only has to be computed in one piece, so the two are the same.
        params.n_ctx = params.n_batch = params.n_ubatch = self.tokens
        params.n_seq_max = self.texts
        params.embeddings = True
        params.kv_unified = True  # else every text would get an equal part of the tokens
        params.n_threads = params.n_threads_batch = settings.threads
        params.no_perf = True
        self._context = lib.llama_init_from_model(self._model.pointer, params)
        if not self._context:
            raise self._log.failure()(
                f"no context of {self.tokens} tokens for {self.name}: {self._log.reason()}",
                hint="lower engine.context",
            )
        kind = lib.llama_pooling_type(self._context)
        if kind not in POOLINGS:
            raise ModelLoadFailed(
                f"{self.name} has the pooling type {kind}, and makes no vectors of texts",
                hint="a model that ranks documents is served as ONNX, in a folder",
            )
        self.pooling = POOLINGS[kind]
