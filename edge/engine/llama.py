"""llama.cpp behind the `Backend` protocol. The only file that imports `llama_cpp`.

Uses the low-level API of llama-cpp-python with a KV stream for each sequence
(`kv_unified=False`): a sequence then attends over its own cells only. Owned by the worker's one
engine thread; the vocabulary may be used from any thread.
"""

from __future__ import annotations

import ctypes
import logging
import re
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as lib
import numpy as np

from edge.engine.backend import Chunk, Logits, Snapshot, SnapshotFailed
from edge.errors import ModelLoadFailed
from edge.types import EngineSettings, ModelFacts, Sampling

logger = logging.getLogger("llama.cpp")

KV_TYPES = {
    "f16": lib.GGML_TYPE_F16,
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q4_0": lib.GGML_TYPE_Q4_0,
}
BYTES_PER_ELEMENT = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
MOST_SLOTS = 32
AUTO_CONTEXT = 2048
MOST_DRAFTED = 32
"""Output rows of a step beyond one for each slot. Each takes the memory of a vocabulary's logits
twice: 0.4 MB with 49,152 tokens, 2 MB with Gemma's 256,000."""

RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp takes this seed for "choose one"; a caller's seed must never mean that."""


class LlamaLog:
    """Keeps the last lines of llama.cpp's log and passes warnings on.

    The lines tell why a load failed and how many layers really went to a GPU; llama.cpp has no
    call for either.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=400)
        self._callback = lib.llama_log_callback(self._receive)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", "replace").rstrip("\n")
        if len(line) < 2:
            return
        self.lines.append(line)
        if level == 4:
            logger.error("%s", line)
        else:
            logger.debug("%s", line)

    def offloaded(self) -> int:
        """Layers on a GPU, as llama.cpp reports them after a load."""
        for line in reversed(self.lines):
            if found := re.search(r"offloaded (\d+)/\d+ layers to GPU", line):
                return int(found[1])
        return 0

    def reason(self) -> str:
        """The last lines that look like an explanation."""
        telling = [line for line in self.lines if re.search(r"error|fail|unable|not ", line, re.I)]
        return "; ".join(telling[-3:]) or "llama.cpp gave no reason"


class LlamaVocabulary:
    """The tokenizer of a loaded model."""

    def __init__(self, model: Any) -> None:
        self._vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos: int = lib.llama_vocab_bos(self._vocab)
        self.eos: int = lib.llama_vocab_eos(self._vocab)
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 2
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, raw, len(raw), tokens, room, bos, special)
        if count < 0:
            room = -count
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, raw, len(raw), tokens, room, bos, special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._render(token, special=False)
        return known

    def text(self, token: int) -> str:
        """How a token is written in a template, control tokens included; empty for none."""
        return self._render(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def is_end(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def control_texts(self) -> list[str]:
        """The spellings of all control tokens, such as `<|im_end|>`."""
        special = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        return [
            text
            for token in range(self.size)
            if lib.llama_vocab_get_attr(self._vocab, token) & special and (text := self.text(token))
        ]

    def _render(self, token: int, special: bool) -> bytes:
        room = 64
        buffer = ctypes.create_string_buffer(room)
        count = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
        if count < 0:
            room = -count
            buffer = ctypes.create_string_buffer(room)
            count = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
        return buffer.raw[:count]


class LlamaChain:
    """A llama.cpp sampler chain, the state of one sequence's sampling."""

    def __init__(self, backend: LlamaBackend, sampling: Sampling) -> None:
        self._backend = backend
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in self._samplers(sampling):
            lib.llama_sampler_chain_add(self._chain, sampler)

    def _samplers(self, sampling: Sampling) -> list[Any]:
        """Temperature comes first, as in OpenAI's API. Biases and penalties are in the logits."""
        chain = [lib.llama_sampler_init_temp(max(sampling.temperature, 1e-4))]
        if sampling.top_k > 0:
            chain.append(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            chain.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            chain.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        seed = (sampling.seed or 0) & 0xFFFFFFFF
        if seed == RANDOM_SEED:
            seed -= 1
        return [*chain, lib.llama_sampler_init_dist(seed)]

    def sample(self, row: int) -> int:
        index = self._backend.batch_index(row)
        return int(lib.llama_sampler_sample(self._chain, self._backend.context_handle, index))

    def replay(self, token: int) -> None:
        # A draw from a single candidate advances the random numbers as a real one does.
        candidate = (lib.llama_token_data * 1)(lib.llama_token_data(token, 0.0, 0.0))
        array = lib.llama_token_data_array(candidate, 1, -1, False)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
            self._chain = None


class LlamaBackend:
    """A loaded model and its context. Raises `ModelLoadFailed` with the reason when it cannot."""

    def __init__(self, name: str, path: Path, settings: EngineSettings, log: LlamaLog) -> None:
        began = time.monotonic()
        self.name = name
        self.path = path
        self.log = log
        self._model: Any = None
        self._context: Any = None
        lib.llama_backend_init()
        self._load_model(settings)
        self.vocabulary = LlamaVocabulary(self._model)
        self._make_context(settings)
        self._memory = lib.llama_get_memory(self._context)
        recurrent = lib.llama_model_is_recurrent(self._model)
        self.can_truncate = not (recurrent or lib.llama_model_is_hybrid(self._model))
        # llama.cpp leaves out of a snapshot what the window has passed, also with `swa_full`.
        self.can_cut_snapshots = self.can_truncate and not lib.llama_model_n_swa(self._model)
        self._uncopied: set[int] = set()
        self._batch = lib.llama_batch_init(self.batch, 0, 1)
        self._token = np.ctypeslib.as_array(self._batch.token, (self.batch,))
        self._pos = np.ctypeslib.as_array(self._batch.pos, (self.batch,))
        self._output = np.ctypeslib.as_array(self._batch.logits, (self.batch,))
        np.ctypeslib.as_array(self._batch.n_seq_id, (self.batch,))[:] = 1
        self._rows: list[int] = []
        self._warm_up()
        self.load_seconds = time.monotonic() - began

    @property
    def context_handle(self) -> Any:
        return self._context

    def batch_index(self, row: int) -> int:
        """Where in the last batch the token stands that made output row `row`."""
        return self._rows[row]

    def decode(self, chunks: Sequence[Chunk]) -> None:
        # Tokens grouped by sequence with ascending ids: anything else makes llama.cpp split the
        # batch into many small ones, at half the speed, silently.
        at = 0
        self._rows = []
        for chunk in chunks:
            end = at + len(chunk.tokens)
            self._token[at:end] = chunk.tokens
            self._pos[at:end] = range(chunk.start, chunk.start + len(chunk.tokens))
            self._output[at:end] = 0
            for i in range(at, end):
                self._batch.seq_id[i][0] = chunk.slot
            if chunk.outputs:
                self._output[end - chunk.outputs : end] = 1
                self._rows.extend(range(end - chunk.outputs, end))
            at = end
        self._batch.n_tokens = at
        status = lib.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with {status}: {self.log.reason()}")
        # Decoding is asynchronous on a GPU; the step must not be measured without it.
        lib.llama_synchronize(self._context)
        self._uncopied.clear()

    def logits(self) -> Logits:
        pointer = lib.llama_get_logits(self._context)
        shape = (len(self._rows), self.vocabulary.size)
        return np.ctypeslib.as_array(pointer, shape)

    def truncate(self, slot: int, length: int) -> None:
        if not lib.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise RuntimeError(f"cannot cut sequence {slot} to {length} tokens")

    def copy(self, source: int, target: int, length: int) -> None:
        # Between streams llama.cpp copies whole ones only, so copy and then cut. It moves the data
        # at the next decode: until then the target must not be read nor the source overwritten.
        self._uncopied |= {source, target}
        lib.llama_memory_seq_rm(self._memory, target, -1, -1)
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self.truncate(target, length)

    def snapshot(self, slot: int, limit: int) -> Snapshot:
        if slot in self._uncopied:
            raise SnapshotFailed(f"slot {slot} is still to be copied")
        size = lib.llama_state_seq_get_size(self._context, slot)
        if not 0 < size <= limit:
            raise SnapshotFailed(f"a snapshot of {size} bytes does not fit into {limit}")
        try:
            data = np.empty(size, np.uint8)
        except MemoryError:
            raise SnapshotFailed(f"no memory for a snapshot of {size} bytes") from None
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = lib.llama_state_seq_get_data(self._context, pointer, size, slot)
        if written != size:
            raise SnapshotFailed(f"llama.cpp wrote {written} of {size} bytes")
        return data

    def restore(self, slot: int, data: Snapshot) -> None:
        if slot in self._uncopied:
            self.truncate(slot, 0)
            raise SnapshotFailed(f"slot {slot} is still to be copied")
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        read = lib.llama_state_seq_set_data(self._context, pointer, data.size, slot)
        if not read or read != data.size:
            self.truncate(slot, 0)
            raise SnapshotFailed(f"llama.cpp does not take it: {self.log.reason()}")

    def chain(self, sampling: Sampling) -> LlamaChain:
        return LlamaChain(self, sampling)

    def state_format(self) -> str:
        """All but the model that decides what the bytes of a snapshot mean, and their numbers."""
        library = Path(lib._lib._name).stat()
        return repr(
            (
                llama_cpp.__version__,
                (library.st_size, library.st_mtime_ns),
                lib.LLAMA_STATE_SEQ_VERSION,
                (self.kv_type, self._flash_attention(), self.gpu_layers),
                (self.slots, self.context),
                lib.llama_print_system_info(),
            )
        )

    def chat_template(self) -> str | None:
        text = lib.llama_model_chat_template(self._model, None)
        return text.decode("utf-8", "replace") if text else None

    def facts(self, memory_bytes: int) -> ModelFacts:
        description = ctypes.create_string_buffer(128)
        lib.llama_model_desc(self._model, description, 128)
        return ModelFacts(
            name=self.name,
            path=str(self.path),
            architecture=self._meta("general.architecture"),
            description=description.value.decode("utf-8", "replace"),
            size_bytes=lib.llama_model_size(self._model),
            parameters=lib.llama_model_n_params(self._model),
            vocab=self.vocabulary.size,
            train_context=lib.llama_model_n_ctx_train(self._model),
            context=self.context,
            slots=self.slots,
            backend="cuda" if self.gpu_layers else "cpu",
            gpu_layers=self.gpu_layers,
            layers=lib.llama_model_n_layer(self._model),
            kv_type=self.kv_type,
            has_chat_template=self.chat_template() is not None,
            load_seconds=self.load_seconds,
            memory_bytes=memory_bytes,
            system_info=lib.llama_print_system_info().decode("utf-8", "replace").strip(),
        )

    def close(self) -> None:
        """Give all memory back. The object is of no use afterwards."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)

    def _load_model(self, settings: EngineSettings) -> None:
        has_gpu = lib.llama_supports_gpu_offload()
        if settings.backend == "cuda" and not has_gpu:
            raise ModelLoadFailed(
                "engine.backend is cuda and this llama.cpp was built without it",
                hint="install a CUDA build (see Dockerfile.jetson), or set engine.backend: auto",
            )
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        if has_gpu and settings.backend != "cpu":
            params.n_gpu_layers = -1 if settings.gpu_layers is None else settings.gpu_layers
        self._model = lib.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._model:
            raise ModelLoadFailed(
                f"llama.cpp cannot load {self.path}: {self.log.reason()}",
                hint="fetch or copy the model again, or free memory for it",
            )
        self.gpu_layers = self.log.offloaded()
        if settings.backend == "cuda" and self.gpu_layers == 0:
            raise ModelLoadFailed(
                f"engine.backend is cuda and no layer of {self.name} went to the GPU",
                hint="run `edge doctor`, or set engine.backend: auto",
            )

    def _make_context(self, settings: EngineSettings) -> None:
        trained = lib.llama_model_n_ctx_train(self._model)
        wanted = settings.context or min(trained, AUTO_CONTEXT)
        if wanted > trained:
            raise ModelLoadFailed(
                f"engine.context is {wanted}, and {self.name} was trained for {trained}",
                hint=f"set engine.context to {trained} at most, or to auto",
            )
        self.kv_type = settings.kv_type
        self.slots = settings.slots or self._fitting_slots(wanted, settings.kv_budget_bytes)
        self.batch = max(settings.batch, self.slots)
        self.outputs = min(self.batch, self.slots + MOST_DRAFTED)
        params = lib.llama_context_default_params()
        params.n_ctx = wanted * self.slots
        params.n_seq_max = self.slots
        params.n_batch = self.batch
        params.n_ubatch = min(self.batch, 512)
        params.n_outputs_max = self.outputs
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.flash_attn_type = self._flash_attention()
        params.kv_unified = False
        params.swa_full = True  # a sliding window that forgets cannot be cut back to a prefix
        params.no_perf = True
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelLoadFailed(
                f"no context of {self.slots} slots with {wanted} tokens for {self.name}: "
                f"{self.log.reason()}",
                hint="lower engine.slots or engine.context",
            )
        self.context: int = lib.llama_n_ctx_seq(self._context)

    def _flash_attention(self) -> int:
        """On a CPU it takes one row at a time below 64 tokens, and a token behind 1,500 others
        then takes 40 ms where matrix products take 18. A quantized KV cache needs it."""
        if self.gpu_layers or self.kv_type != "f16":
            return int(lib.LLAMA_FLASH_ATTN_TYPE_AUTO)
        return int(lib.LLAMA_FLASH_ATTN_TYPE_DISABLED)

    def _fitting_slots(self, context: int, budget: int) -> int:
        """As many slots as the memory set aside for KV holds, at least one."""
        each = self.kv_bytes_per_token() * context
        return int(min(MOST_SLOTS, max(1, budget // max(each, 1))))

    def kv_bytes_per_token(self) -> float:
        """Keys and values of all layers; head sizes from the model's header, else by division."""
        architecture = self._meta("general.architecture")
        heads = max(lib.llama_model_n_head(self._model), 1)
        width = lib.llama_model_n_embd(self._model) // heads
        key = int(self._meta(f"{architecture}.attention.key_length") or width)
        value = int(self._meta(f"{architecture}.attention.value_length") or width)
        layers = int(lib.llama_model_n_layer(self._model))
        elements = layers * int(lib.llama_model_n_head_kv(self._model)) * (key + value)
        return elements * BYTES_PER_ELEMENT[self.kv_type]

    def _warm_up(self) -> None:
        """Compute once, so that a library that crashes does so now and not in a request."""
        self.decode([Chunk(slot, 0, [0], 1) for slot in range(self.slots)])
        if not np.isfinite(self.logits()).all():
            raise ModelLoadFailed(
                f"{self.name} computes no numbers: the file may be damaged",
                hint="fetch or copy the model again",
            )
        lib.llama_memory_clear(self._memory, True)

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        found = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if found >= 0 else ""
