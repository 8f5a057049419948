"""llama.cpp behind the `Backend` protocol. The only file that imports `llama_cpp`.

Uses the low-level API of llama-cpp-python with a KV stream for each sequence
(`kv_unified=False`): a sequence then attends over its own cells only. Owned by the worker's one
engine thread; the vocabulary may be used from any thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import llama_cpp
import llama_cpp.llama_cpp as lib
import numpy as np

from edge.engine.backend import Chunk, Logits, Snapshot, SnapshotFailed
from edge.engine.devices import devices
from edge.engine.draws import Draws
from edge.engine.footprint import (
    AUTO_CONTEXT,
    BYTES_PER_ELEMENT,
    MOST_DRAFTED,
    MOST_PHYSICAL_BATCH,
    MOST_SLOTS,
)
from edge.engine.placement import Placement
from edge.engine.shortage import WeightsDoNotFit, telling
from edge.errors import ModelLoadFailed, OutOfMemory
from edge.types import Adapter, EngineSettings, ModelFacts, Sampling

logger = logging.getLogger("llama.cpp")

KV_TYPES = {
    "f16": lib.GGML_TYPE_F16,
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q4_0": lib.GGML_TYPE_Q4_0,
}


class LlamaLog:
    """Keeps the last lines of llama.cpp's log and passes warnings on.

    The lines tell why a load failed, and where the parts of a model went (`placement`); llama.cpp
    has no call for either.
    """

    _callbacks: ClassVar[list[Any]] = []
    """Of all logs: llama.cpp calls the last one that it was given for as long as the process lives,
    whether or not anybody else still has it."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=400)
        self.placement = Placement()
        callback = lib.llama_log_callback(self._receive)
        self._callbacks.append(callback)
        lib.llama_log_set(callback, ctypes.c_void_p(0))

    def begin(self) -> None:
        """What comes is about another model."""
        self.lines.clear()
        self.placement.begin()

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", "replace").rstrip("\n")
        if len(line) < 2:
            return
        self.lines.append(line)
        self.placement.hear(line)
        if level == 4:
            logger.error("%s", line)
        else:
            logger.debug("%s", line)

    def failure(self) -> type[ModelLoadFailed]:
        """The error for a load that failed: was there memory, and something else was wrong?"""
        return OutOfMemory if telling(self.lines) else ModelLoadFailed

    def reason(self) -> str:
        """The last lines that look like an explanation."""
        telling = [line for line in self.lines if re.search(r"error|fail|unable|not ", line, re.I)]
        return "; ".join(telling[-3:]) or "llama.cpp gave no reason"


def forget_pages(path: Path) -> None:
    """Give back the memory in which the kernel keeps what was read of a file. A GPU that shares the
    main memory has a copy of the weights in it, and NVIDIA's allocator on a Jetson may count such
    pages as taken (L4T 36.4.7), although `MemAvailable` does not."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def _back_end(device: str) -> str:
    """By the name of its buffers: `CUDA0`, `Vulkan0`, `RPC0[127.0.0.1:50052]`."""
    found = re.match(r"[A-Za-z]+", device)
    return found[0].lower() if found else "cpu"


class LlamaVocabulary:
    """The tokenizer of a loaded model."""

    def __init__(self, model: Any) -> None:
        self._vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos: int = lib.llama_vocab_bos(self._vocab)
        self.eos: int = lib.llama_vocab_eos(self._vocab)
        self.kind: int = lib.llama_vocab_type(self._vocab)
        self.begins_with = self.bos if self.adds_bos else None
        self.ends_with = self.eos if lib.llama_vocab_get_add_eos(self._vocab) else None
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

    def spelling(self, token: int) -> bytes:
        """As it stands in the file, which is how vocabularies are compared."""
        return bytes(lib.llama_vocab_get_text(self._vocab, token))

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


class LlamaModel:
    """The weights of a model. Raises `ModelLoadFailed` with the reason when they cannot be had.

    gpu_layers: on a GPU. back_end: whose. shares_memory: that GPU has none of its own.
    mapped_bytes: weights that are read from the pages of the file; the others were copied.
    """

    def __init__(self, name: str, path: Path, settings: EngineSettings, log: LlamaLog) -> None:
        lib.llama_backend_init()
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
        gpus = [device for device in devices() if device.is_gpu] if params.n_gpu_layers else []
        self.shares_memory = bool(gpus) and all(device.kind == "integrated" for device in gpus)
        if self.shares_memory:
            forget_pages(path)
        log.begin()
        self.pointer = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            kind = log.failure()
            raise (WeightsDoNotFit if kind is OutOfMemory else kind)(
                f"llama.cpp cannot load {path}: {log.reason()}",
                hint="fetch or copy the model again, or free memory for it",
            )
        if self.shares_memory:
            forget_pages(path)
        placed = log.placement.told()
        self.gpu_layers = placed.layers
        self.back_end = _back_end(placed.device)
        self.mapped_bytes: int = max(0, lib.llama_model_size(self.pointer) - placed.copied_bytes)
        if settings.backend == "cuda" and self.back_end != "cuda":
            raise ModelLoadFailed(
                f"engine.backend is cuda and no layer of {name} went to a GPU by CUDA",
                hint="run `edge doctor`, or set engine.backend: auto",
            )

    def meta(self, key: str) -> str:
        """What the file says under that key; empty where it says nothing."""
        buffer = ctypes.create_string_buffer(256)
        found = lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if found >= 0 else ""

    def description(self) -> str:
        buffer = ctypes.create_string_buffer(128)
        lib.llama_model_desc(self.pointer, buffer, 128)
        return buffer.value.decode("utf-8", "replace")


class LlamaBackend:
    """A loaded model and its context. Raises `ModelLoadFailed` with the reason when it cannot."""

    def __init__(
        self,
        name: str,
        path: Path,
        settings: EngineSettings,
        log: LlamaLog,
        adapter: Adapter | None = None,
    ) -> None:
        began = time.monotonic()
        self.name = name
        self.path = path
        self.log = log
        self._context: Any = None
        self._loaded = LlamaModel(name, path, settings, log)
        self._model = self._loaded.pointer
        self.gpu_layers, self.mapped_bytes = self._loaded.gpu_layers, self._loaded.mapped_bytes
        self.vocabulary = LlamaVocabulary(self._model)
        self._make_context(settings)
        self.placed = log.placement.told()
        if adapter is not None:
            self._apply(adapter)
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
        self._rows = 0
        self._warm_up()
        self.load_seconds = time.monotonic() - began

    def decode(self, chunks: Sequence[Chunk]) -> None:
        # Tokens grouped by sequence with ascending ids: anything else makes llama.cpp split the
        # batch into many small ones, at half the speed, silently.
        at = 0
        self._rows = 0
        for chunk in chunks:
            end = at + len(chunk.tokens)
            self._token[at:end] = chunk.tokens
            self._pos[at:end] = range(chunk.start, chunk.start + len(chunk.tokens))
            self._output[at:end] = 0
            for i in range(at, end):
                self._batch.seq_id[i][0] = chunk.slot
            if chunk.outputs:
                self._output[end - chunk.outputs : end] = 1
                self._rows += chunk.outputs
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
        shape = (self._rows, self.vocabulary.size)
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

    def chain(self, sampling: Sampling) -> Draws:
        return Draws(self, sampling)

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
        return ModelFacts(
            name=self.name,
            path=str(self.path),
            architecture=self._loaded.meta("general.architecture"),
            description=self._loaded.description(),
            size_bytes=lib.llama_model_size(self._model),
            parameters=lib.llama_model_n_params(self._model),
            vocab=self.vocabulary.size,
            train_context=lib.llama_model_n_ctx_train(self._model),
            context=self.context,
            slots=self.slots,
            backend=self._loaded.back_end,
            gpu_layers=self.gpu_layers,
            layers=lib.llama_model_n_layer(self._model) + 1,
            kv_type=self.kv_type,
            has_chat_template=self.chat_template() is not None,
            load_seconds=self.load_seconds,
            memory_bytes=memory_bytes,
            system_info=lib.llama_print_system_info().decode("utf-8", "replace").strip(),
            flash_attention=self.placed.flash_attention,
            device=self.placed.device,
            left_on_cpu=self.placed.cpu,
        )

    @property
    def shared_bytes(self) -> int:
        """In buffers of a GPU, where these are main memory that the process's own books do not
        show."""
        return self.placed.device_bytes if self._loaded.shares_memory else 0

    def close(self) -> None:
        """Give all memory back. The object is of no use afterwards."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)

    def _make_context(self, settings: EngineSettings) -> None:
        trained = lib.llama_model_n_ctx_train(self._model)
        wanted = self._context_wanted(settings, trained)
        self.kv_type = "f16" if settings.kv_type == "auto" else settings.kv_type
        self.slots = settings.slots or self._fitting_slots(wanted, settings.kv_budget_bytes)
        self.batch = max(settings.batch, self.slots)
        self.outputs = min(self.batch, self.slots + MOST_DRAFTED)
        params = lib.llama_context_default_params()
        params.n_ctx = wanted * self.slots
        params.n_seq_max = self.slots
        params.n_batch = self.batch
        params.n_ubatch = min(self.batch, MOST_PHYSICAL_BATCH)
        params.n_outputs_max = self.outputs
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = KV_TYPES[self.kv_type]
        params.flash_attn_type = self._flash_attention()
        params.kv_unified = False
        params.swa_full = True  # a sliding window that forgets cannot be cut back to a prefix
        params.no_perf = True
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise self.log.failure()(
                f"no context of {self.slots} slots with {wanted} tokens for {self.name}: "
                f"{self.log.reason()}",
                hint="lower engine.slots or engine.context",
            )
        self.context: int = lib.llama_n_ctx_seq(self._context)
        # Of a small context llama.cpp lowers it, and ends the process over a longer batch.
        self.batch = int(lib.llama_n_batch(self._context))
        self.outputs = min(self.outputs, self.batch)

    def _apply(self, adapter: Adapter) -> None:
        """For all that this context computes. llama.cpp frees it together with the model."""
        found = lib.llama_adapter_lora_init(self._model, adapter.path.encode())
        if not found:
            raise self.log.failure()(
                f"llama.cpp cannot load the adapter {adapter.path}: {self.log.reason()}",
                hint="fetch or copy the adapter again, or serve it with another model",
            )
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(found)
        scales = (ctypes.c_float * 1)(adapter.scale)
        if lib.llama_set_adapters_lora(self._context, adapters, 1, scales):
            raise ModelLoadFailed(f"llama.cpp does not apply {adapter.path}: {self.log.reason()}")

    def _context_wanted(self, settings: EngineSettings, trained: int) -> int:
        """Tokens of a slot."""
        wanted = settings.context or min(trained, AUTO_CONTEXT)
        if wanted > trained:
            raise ModelLoadFailed(
                f"engine.context is {wanted}, and {self.name} was trained for {trained}",
                hint=f"set engine.context to {trained} at most, or to auto",
            )
        return wanted

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
        architecture = self._loaded.meta("general.architecture")
        heads = max(lib.llama_model_n_head(self._model), 1)
        width = lib.llama_model_n_embd(self._model) // heads
        key = int(self._loaded.meta(f"{architecture}.attention.key_length") or width)
        value = int(self._loaded.meta(f"{architecture}.attention.value_length") or width)
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
