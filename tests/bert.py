"""A BERT three ways, of the same weights: computed with numpy, as an ONNX file, as a GGUF file.

What the appliance computes is compared with the first, which shares no code with the other two.
The weights are those of the real MiniLM, or random ones.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import onnx_models
from onnx import helper
from tokenizers import Tokenizer

Floats = npt.NDArray[np.float32]

ROWS: tuple[str, str] = ("batch", "sequence")
EPSILON = 1e-12

SENTENCES = [
    "The hydraulic press stopped at 12:40 with error E-17.",
    "Bearing temperature on line 3 is above the limit.",
    "Motor 4 draws too much current.",
    "The operator replaced the gasket and restarted the pump without further incidents.",
    "pressure 3 bar",
    "pressure 9 bar",
    "A cat sits on the window sill and watches the rain.",
    "Lagertemperatur über dem Grenzwert, Schicht 2, Anlage 7: bitte prüfen!",
    "ok",
    "Before each shift, check the oil level, the belt tension and the emergency stop; note what "
    "you find in the log book together with the date, the time and your initials. Whatever is out "
    "of tolerance has to be reported to the foreman before the machine is started.",
]


class Bert(NamedTuple):
    """weights: by Hugging Face's names, without `bert.` before them."""

    weights: Mapping[str, Floats]
    layers: int
    heads: int

    @property
    def width(self) -> int:
        return int(self.weights["embeddings.word_embeddings.weight"].shape[1])

    @property
    def inner(self) -> int:
        return int(self.weights["encoder.layer.0.intermediate.dense.weight"].shape[0])


def minilm() -> Bert:
    """all-MiniLM-L6-v2 in float32."""
    path = onnx_models.fetched(onnx_models.MINILM, "model.safetensors")
    raw = path.read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    weights = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            flat = np.frombuffer(raw[8 + size + start : 8 + size + end], "<f4")
            weights[name] = flat.reshape(entry["shape"])
    return Bert(weights, layers=6, heads=12)


def minilm_tokenizer() -> Path:
    return onnx_models.fetched(onnx_models.MINILM, "tokenizer.json")


def random_bert(seed: int, width: int = 32, layers: int = 2, inner: int = 64) -> Bert:
    """A small one with MiniLM's vocabulary, and a head with one label."""
    draw = np.random.default_rng(seed)
    weights: dict[str, Floats] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = draw.normal(0, 0.3, (rows, columns)).astype(np.float32)
        weights[f"{name}.bias"] = draw.normal(0, 0.1, rows).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = draw.normal(1, 0.1, width).astype(np.float32)
        weights[f"{name}.bias"] = draw.normal(0, 0.1, width).astype(np.float32)

    for table, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        weights[f"embeddings.{table}_embeddings.weight"] = draw.normal(0, 1, (rows, width)).astype(
            np.float32
        )
    norm("embeddings.LayerNorm")
    for at in range(layers):
        for part in ("query", "key", "value"):
            linear(f"encoder.layer.{at}.attention.self.{part}", width, width)
        linear(f"encoder.layer.{at}.attention.output.dense", width, width)
        norm(f"encoder.layer.{at}.attention.output.LayerNorm")
        linear(f"encoder.layer.{at}.intermediate.dense", inner, width)
        linear(f"encoder.layer.{at}.output.dense", width, inner)
        norm(f"encoder.layer.{at}.output.LayerNorm")
    linear("pooler.dense", width, width)
    linear("classifier", 1, width)
    return Bert(weights, layers, heads=4)


# With numpy


def hidden(model: Bert, ids: Sequence[int], types: Sequence[int] | None = None) -> Floats:
    """Of one row without padding: [tokens, width], in float64 on the way."""
    w = model.weights
    x = w["embeddings.word_embeddings.weight"][list(ids)].astype(np.float64)
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + w["embeddings.token_type_embeddings.weight"][types or [0] * len(ids)]
    x = _norm(w, "embeddings.LayerNorm", x)
    for at in range(model.layers):
        layer = f"encoder.layer.{at}"
        q, k, v = (
            _linear(w, f"{layer}.attention.self.{part}", x)
            .reshape(len(ids), model.heads, -1)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        mixed = _linear(w, f"{layer}.attention.output.dense", mixed)
        x = _norm(w, f"{layer}.attention.output.LayerNorm", x + mixed)
        inner = _gelu(_linear(w, f"{layer}.intermediate.dense", x))
        x = _norm(w, f"{layer}.output.LayerNorm", x + _linear(w, f"{layer}.output.dense", inner))
    return x.astype(np.float32)


def sentence(model: Bert, tokenizer: Tokenizer, text: str) -> Floats:
    """As the card of all-MiniLM-L6-v2 has it: the mean over all tokens, of length 1."""
    mean = hidden(model, tokenizer.encode(text).ids).mean(axis=0)
    unit: Floats = mean / np.linalg.norm(mean)
    return unit


def score(model: Bert, tokenizer: Tokenizer, query: str, document: str) -> float:
    """Of BertForSequenceClassification with one label, which CrossEncoder puts into a sigmoid."""
    encoded = tokenizer.encode(query, document)
    first = hidden(model, encoded.ids, encoded.type_ids)[:1].astype(np.float64)
    pooled = np.tanh(_linear(model.weights, "pooler.dense", first))
    (logit,) = _linear(model.weights, "classifier", pooled)[0]
    return float(1 / (1 + math.exp(-logit)))


def _linear(w: Mapping[str, Any], name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T.astype(np.float64) + w[f"{name}.bias"]


def _norm(w: Mapping[str, Any], name: str, x: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)).astype(np.float64))


# As an ONNX file


class _Graph:
    """Nodes with names that follow from what they compute."""

    def __init__(self, model: Bert) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self.weights: dict[str, npt.NDArray[Any]] = {}
        self._count = 0

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        self._count += 1
        name = output or f"{operator}_{self._count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights[name] = np.array(value, dtype)
        return name

    def linear(self, name: str, x: str) -> str:
        self.weights[f"{name}.w"] = np.ascontiguousarray(self.model.weights[f"{name}.weight"].T)
        self.weights[f"{name}.b"] = self.model.weights[f"{name}.bias"]
        return self.node("Add", self.node("MatMul", x, f"{name}.w"), f"{name}.b")

    def norm(self, name: str, x: str) -> str:
        for part in ("weight", "bias"):
            self.weights[f"{name}.{part}"] = self.model.weights[f"{name}.{part}"]
        parts = (f"{name}.weight", f"{name}.bias")
        return self.node("LayerNormalization", x, *parts, axis=-1, epsilon=EPSILON)

    def embedded(self) -> str:
        for table in ("word", "position", "token_type"):
            name = f"embeddings.{table}_embeddings.weight"
            self.weights[name] = self.model.weights[name]
        zero, one = self.constant("zero", 0, np.int64), self.constant("one", 1, np.int64)
        tokens = self.node("Gather", self.node("Shape", "input_ids"), one)
        places = self.node("Range", zero, tokens, one)
        parts = [
            self.node("Gather", f"embeddings.{table}_embeddings.weight", which)
            for table, which in (
                ("word", "input_ids"),
                ("token_type", "token_type_ids"),
                ("position", places),
            )
        ]
        return self.norm(
            "embeddings.LayerNorm", self.node("Add", self.node("Add", *parts[:2]), parts[2])
        )

    def attention_bias(self) -> str:
        """[batch, 1, 1, sequence]: 0 for what may be looked at, and little for padding."""
        axes = self.constant("axes", [1, 2], np.int64)
        mask = self.node("Unsqueeze", self.node("Cast", "attention_mask", to=1), axes)
        away = self.node("Sub", self.constant("one_f", 1), mask)
        return self.node("Mul", away, self.constant("little", -1e9))

    def layer(self, at: int, x: str, bias: str) -> str:
        name, width, heads = f"encoder.layer.{at}", self.model.width, self.model.heads
        split = self.constant("split", [0, 0, heads, width // heads], np.int64)
        merge = self.constant("merge", [0, 0, width], np.int64)
        q, k, v = (
            self.node("Reshape", self.linear(f"{name}.attention.self.{part}", x), split)
            for part in ("query", "key", "value")
        )
        q, v = (self.node("Transpose", one, perm=[0, 2, 1, 3]) for one in (q, v))
        k = self.node("Transpose", k, perm=[0, 2, 3, 1])
        root = self.constant("root", math.sqrt(width // heads))
        scores = self.node("Add", self.node("Div", self.node("MatMul", q, k), root), bias)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        mixed = self.node("Reshape", self.node("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
        mixed = self.linear(f"{name}.attention.output.dense", mixed)
        x = self.norm(f"{name}.attention.output.LayerNorm", self.node("Add", x, mixed))
        inner = self.linear(f"{name}.intermediate.dense", x)
        half = self.node("Mul", inner, self.constant("half", 0.5))
        bent = self.node("Erf", self.node("Div", inner, self.constant("root2", math.sqrt(2))))
        inner = self.node("Mul", half, self.node("Add", bent, "one_f"))
        out = self.linear(f"{name}.output.dense", inner)
        return self.norm(f"{name}.output.LayerNorm", self.node("Add", x, out))


def as_onnx(model: Bert) -> bytes:
    """input_ids, attention_mask, token_type_ids to last_hidden_state, as usual exports have it; or
    to logits [batch, 1] where the model has a head for that."""
    graph = _Graph(model)
    x, bias = graph.embedded(), graph.attention_bias()
    for at in range(model.layers):
        x = graph.layer(at, x, bias)
    if "classifier.weight" in model.weights:
        first = graph.node("Gather", x, "zero", axis=1)
        pooled = graph.node("Tanh", graph.linear("pooler.dense", first))
        graph.node("Identity", graph.linear("classifier", pooled), output="logits")
        outputs: dict[str, Any] = {"logits": ("FP32", ["batch", 1])}
    else:
        graph.node("Identity", x, output="last_hidden_state")
        outputs = {"last_hidden_state": ("FP32", [*ROWS, model.width])}
    names = ("input_ids", "attention_mask", "token_type_ids")
    return onnx_models.built(
        graph.nodes, dict.fromkeys(names, ("INT64", ROWS)), outputs, graph.weights
    )


# As a GGUF file


def as_gguf(
    path: Path,
    model: Bert,
    tokenizer: Path,
    pooling: gguf.PoolingType = gguf.PoolingType.MEAN,
) -> Path:
    """What llama.cpp's converter makes of such a model, in float32."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("bert")
    writer.add_context_length(512)
    writer.add_embedding_length(model.width)
    writer.add_feed_forward_length(model.inner)
    writer.add_block_count(model.layers)
    writer.add_head_count(model.heads)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    _add_vocabulary(writer, tokenizer)
    for name, array in _gguf_tensors(model):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Path) -> None:
    """llama.cpp's WPM has a phantom space before what begins a word, and no ## before the rest."""
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    control = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}

    def spelling(text: str) -> str:
        if text in control or (text.startswith("[") and text.endswith("]") and len(text) > 2):
            return text
        return text[2:] if text.startswith("##") else "\u2581" + text

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([spelling(text) for text in texts])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if text in control else gguf.TokenType.NORMAL for text in texts]
    )
    writer.add_token_type_count(2)
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_eos_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])


_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def _gguf_tensors(model: Bert) -> Iterator[tuple[str, Floats]]:
    w = model.weights
    yield "token_embd.weight", w["embeddings.word_embeddings.weight"]
    yield "position_embd.weight", w["embeddings.position_embeddings.weight"]
    yield "token_types.weight", w["embeddings.token_type_embeddings.weight"]
    for end in ("weight", "bias"):
        yield f"token_embd_norm.{end}", w[f"embeddings.LayerNorm.{end}"]
        for at in range(model.layers):
            for theirs, ours in _PARTS.items():
                yield f"blk.{at}.{ours}.{end}", w[f"encoder.layer.{at}.{theirs}.{end}"]
