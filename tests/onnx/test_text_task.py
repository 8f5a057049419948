"""Texts to vectors and scores, compared with a BERT in numpy and with plain onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bert
import numpy as np
import numpy.typing as npt
import onnx_models
import onnxruntime
import pytest
from tokenizers import Tokenizer

from edge.errors import BadModelFile, ContextLengthExceeded, InternalError, InvalidRequest
from edge.onnx.pair_task import PairTask
from edge.onnx.pooling import pool
from edge.onnx.task import Condensing, Model
from edge.onnx.text_task import TextTask
from edge.repository.text import TextSettings
from edge.tensors import PairWork, TensorFacts, TensorWork, TextWork, Vectors, Work
from edge.vectors import unit

IDS = [TensorFacts(name, "INT64", [-1, -1]) for name in ("input_ids", "attention_mask")]
INPUTS = [*IDS, TensorFacts("token_type_ids", "INT64", [-1, -1])]
HIDDEN = [TensorFacts("last_hidden_state", "FP32", [-1, -1, 384])]
LOGITS = [TensorFacts("logits", "FP32", [-1, 1])]

TEXT = TextSettings(max_tokens=256)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """As the model's authors mean it: without the length that its file was left with."""
    found = Tokenizer.from_file(str(bert.minilm_tokenizer()))
    found.no_padding()
    found.no_truncation()
    return found


@pytest.fixture(scope="session")
def plain() -> onnxruntime.InferenceSession:
    """MiniLM in float32, in onnxruntime with nothing around it."""
    return onnxruntime.InferenceSession(bert.as_onnx(bert.minilm()))


@pytest.fixture(scope="session")
def quantized() -> onnxruntime.InferenceSession:
    path = onnx_models.fetched(onnx_models.MINILM_INT8, "model.onnx")
    return onnxruntime.InferenceSession(path)


@pytest.fixture(scope="session")
def reference(tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """The vectors of `bert.SENTENCES`, by numpy from MiniLM's float32 weights."""
    model = bert.minilm()
    return np.array([bert.sentence(model, tokenizer, text) for text in bert.SENTENCES])


def model_of(
    folder: Path | None = None,
    inputs: Sequence[TensorFacts] = INPUTS,
    outputs: Sequence[TensorFacts] = HIDDEN,
) -> Model:
    return Model("m", folder or bert.minilm_tokenizer().parent, inputs, outputs, {}, batched=True)


def task(settings: TextSettings = TEXT, **facts: Any) -> TextTask:
    return TextTask(settings, model_of(**facts))


def computed(
    one: TextTask | PairTask, session: Any, work: Work, most: int = 32, together: int = 1
) -> Any:
    """What the task makes of the work; so many pieces at a time, as the batcher does it."""
    prepared = one.prepare(work, most)
    outputs: list[Any] = []
    for at in range(0, len(prepared.pieces), together):
        pieces = prepared.pieces[at : at + together]
        assert all(piece.rows <= max(1, most) for piece in pieces)
        names = [output.name for output in session.get_outputs()]
        inputs = one.join(pieces)
        arrays = dict(zip(names, session.run(names, inputs), strict=True))
        if isinstance(one, Condensing):
            arrays = one.condense(pieces, inputs, arrays)
        row = 0
        for piece in pieces:
            outputs.append({name: a[row : row + piece.rows] for name, a in arrays.items()})
            row += piece.rows
    return one.finish(prepared, outputs)


def vectors(found: Vectors) -> npt.NDArray[np.float32]:
    return np.frombuffer(found.data, "<f4").reshape(-1, found.width)


def cosines(ours: Any, theirs: Any) -> npt.NDArray[np.float32]:
    return np.asarray((unit(ours) * unit(theirs)).sum(axis=1))


def alone(session: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Plain onnxruntime, a text at a time."""
    found = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        (states,) = session.run(["last_hidden_state"], inputs)
        found.append(states[0].mean(axis=0))
    return unit(np.array(found))


@pytest.mark.parametrize(("most", "together"), [(32, 1), (1, 1), (4, 3), (2, 100)])
def test_real_weights_give_the_vectors_of_the_reference(
    plain: Any, tokenizer: Tokenizer, reference: Any, most: int, together: int
) -> None:
    """MiniLM in float32, in any company and order, against a forward pass in numpy."""
    found = computed(task(), plain, TextWork(bert.SENTENCES), most, together)
    assert cosines(vectors(found), reference).min() > 0.99999
    assert np.allclose(np.linalg.norm(vectors(found), axis=1), 1, atol=1e-6)
    assert found.tokens == sum(len(tokenizer.encode(text).ids) for text in bert.SENTENCES)


def test_quantized_model_gives_what_plain_onnxruntime_gives(
    quantized: Any, tokenizer: Tokenizer, reference: Any
) -> None:
    """The model that is fetched by name: the same vectors as alone, and near those of float32."""
    found = vectors(computed(task(), quantized, TextWork(bert.SENTENCES), 32, 100))
    assert cosines(found, alone(quantized, tokenizer, bert.SENTENCES)).min() > 0.99999
    # Of the two tokens of "ok" the mean has little to average errors over: 0.9964.
    assert np.median(cosines(found, reference)) > 0.999
    assert cosines(found, reference).min() > 0.99


def test_token_ids_are_taken_as_they_are(quantized: Any, tokenizer: Tokenizer) -> None:
    """Those of a tokenizer with its special tokens give the vectors of the texts."""
    ids = [tokenizer.encode(text).ids for text in bert.SENTENCES]
    by_ids = vectors(computed(task(), quantized, TextWork(ids)))
    by_text = vectors(computed(task(), quantized, TextWork(bert.SENTENCES)))
    assert cosines(by_ids, by_text).min() > 0.99999


def test_fewer_dimensions_are_the_leading_ones_at_length_one(quantized: Any) -> None:
    """As OpenAI's field `dimensions` has it."""
    whole = vectors(computed(task(), quantized, TextWork(bert.SENTENCES)))
    short = vectors(computed(task(), quantized, TextWork(bert.SENTENCES, dimensions=64)))
    assert short.shape == (len(bert.SENTENCES), 64)
    assert np.allclose(short, unit(whole[:, :64]), atol=1e-6)


def test_rows_of_a_piece_are_about_equally_long() -> None:
    """A text of one word is not padded to the length of a page."""
    texts = ["word " * count for count in (200, 1, 199, 2, 1, 180, 60, 3)]
    prepared = task().prepare(TextWork(texts), 32)
    for piece in prepared.pieces:
        counted = piece.inputs["attention_mask"].sum(axis=1)
        assert counted.max() <= 1.25 * counted.min()
        assert piece.length == piece.inputs["input_ids"].shape[1] == counted.max()
    assert sum(piece.rows for piece in prepared.pieces) == len(texts)


def test_model_with_a_length_of_its_own_gets_rows_of_that_length(tokenizer: Tokenizer) -> None:
    """Exports for accelerators leave no choice."""
    fixed = [TensorFacts(one.name, "INT32", [1, 128]) for one in INPUTS]
    settings = TextSettings(max_tokens=128)
    (piece,) = task(settings, inputs=fixed).prepare(TextWork(["two words"]), 1).pieces
    assert piece.inputs["input_ids"].shape == (1, 128)
    assert piece.inputs["input_ids"].dtype == np.int32
    assert piece.inputs["attention_mask"].sum() == len(tokenizer.encode("two words").ids)


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_padding_does_not_count(how: Any) -> None:
    """Whatever stands behind the end of a row."""
    draw = np.random.default_rng(1)
    rows = [draw.normal(size=(length, 8)).astype(np.float32) for length in (3, 1, 7)]
    padded = np.full((3, 9, 8), 1e6, np.float32)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    expected = [{"mean": row.mean(axis=0), "cls": row[0], "last": row[-1]}[how] for row in rows]
    lengths = np.array([len(row) for row in rows])
    assert np.allclose(pool(padded, lengths, how), expected, atol=1e-5)


def test_vectors_that_the_model_made_itself_are_taken() -> None:
    """An output with a vector for each text needs no pooling."""
    outputs = [TensorFacts("sentence_embedding", "FP32", [-1, 4])]
    one = task(TextSettings(normalize=False), outputs=outputs)
    prepared = one.prepare(TextWork(["a longer text", "short"]), 1)
    made = [
        one.condense([piece], piece.inputs, {"sentence_embedding": np.full((1, 4), at, np.float32)})
        for at, piece in enumerate(prepared.pieces, 1)
    ]
    assert vectors(one.finish(prepared, made)).tolist() == [[2] * 4, [1] * 4]


def test_kind_of_text_has_its_prefix(tokenizer: Tokenizer) -> None:
    """As models of E5's kind want it; nobody is given one that was not asked for."""
    settings = TextSettings(prefixes={"query": "query: ", "passage": "passage: "})
    one = task(settings)

    def ids(kind: str | None) -> list[int]:
        (piece,) = one.prepare(TextWork(["oil level"], kind=kind), 1).pieces
        return [int(token) for token in piece.inputs["input_ids"][0]]

    assert ids("query") == tokenizer.encode("query: oil level").ids
    assert ids(None) == tokenizer.encode("oil level").ids
    with pytest.raises(InvalidRequest, match="query, passage") as refused:
        ids("code")
    assert refused.value.param == "input_type"
    with pytest.raises(InvalidRequest, match="not for token ids"):
        one.prepare(TextWork([[101, 102]], kind="query"), 1)


LONG = "pump " * 300


def test_text_that_is_too_long_is_refused_by_its_place() -> None:
    """Half of a text has another vector, and nobody would see."""
    with pytest.raises(ContextLengthExceeded, match="302 tokens, and this model reads 256") as no:
        task().prepare(TextWork(["short", LONG]), 32)
    assert no.value.param == "input[1]"
    with pytest.raises(ContextLengthExceeded):
        task().prepare(TextWork([[2000] * 257]), 32)


def test_text_that_is_too_long_is_cut_where_the_manifest_says_so(tokenizer: Tokenizer) -> None:
    """To what sentence-transformers cuts it to: with the token that ends it."""
    one = task(TextSettings(max_tokens=256, too_long="truncate"))
    (piece,) = one.prepare(TextWork([LONG]), 32).pieces
    assert piece.inputs["input_ids"][0].tolist() == [*tokenizer.encode(LONG).ids[:255], 102]
    (piece,) = one.prepare(TextWork([[2000] * 300]), 32).pieces
    assert piece.length == 256


BAD = {
    "empty": (["fine", ""], "input[1]", "empty"),
    "no ids": ([[101, 102], []], "input[1]", "empty"),
    "foreign id": ([[101, 30522]], "input[0]", "0 to 30521"),
    "a book": (["x" * 20_000], "input[0]", "characters"),
    "a mixture": (["fine", [101, 102]], "input", "mixture"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_texts_are_refused_by_their_place(case: str) -> None:
    """Before anything is computed, and the longest before it is tokenized."""
    texts, param, words = BAD[case]
    with pytest.raises(InvalidRequest, match=words) as refused:
        task().prepare(TextWork(texts), 32)
    assert refused.value.param == param


@pytest.mark.parametrize("text", ["\x00", " ", "\u200b", "[PAD]", "a" * 5_000, "\U0001f600" * 50])
def test_odd_texts_have_a_vector(quantized: Any, text: str) -> None:
    """What a text may be is not for the appliance to say."""
    found = vectors(computed(task(), quantized, TextWork([text, "a word"])))
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_wrong_work_and_dimensions_are_refused() -> None:
    """By the field at fault."""
    with pytest.raises(InvalidRequest, match="384") as refused:
        task().prepare(TextWork(["a"], dimensions=385), 32)
    assert refused.value.param == "dimensions"
    with pytest.raises(InvalidRequest, match="texts to embed"):
        task().prepare(TensorWork([]), 32)


def test_model_that_computes_no_numbers_is_no_answer() -> None:
    """A vector of NaN is not a direction."""
    one = task()
    prepared = one.prepare(TextWork(["fine", "broken"]), 1)
    made = [np.ones((1, piece.length, 384), np.float32) for piece in prepared.pieces]
    made[1][:] = np.nan
    outputs = [
        one.condense([piece], piece.inputs, {"last_hidden_state": states})
        for piece, states in zip(prepared.pieces, made, strict=True)
    ]
    with pytest.raises(InternalError, match="no numbers"):
        one.finish(prepared, outputs)


BAD_MODELS: dict[str, dict[str, Any]] = {
    "pixel_values": {"inputs": [*IDS, TensorFacts("pixel_values", "FP32", [-1, 3, 224, 224])]},
    "no input attention_mask": {"inputs": [INPUTS[0]]},
    "no input input_ids": {"inputs": [TensorFacts("attention_mask", "INT64", [-1, -1])]},
    "vectors of tokens": {"outputs": [TensorFacts("y", "INT64", [-1, -1, 4])]},
    "logits": {"outputs": [TensorFacts("logits", "FP32", [-1])]},
}


@pytest.mark.parametrize("words", BAD_MODELS)
def test_foreign_model_is_refused_when_it_is_loaded(words: str) -> None:
    """With what it has and a text has not."""
    with pytest.raises(BadModelFile, match=words):
        task(**BAD_MODELS[words])


def test_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    """By its file."""
    for contents in (b"", b"{}", b"\xff\x00", bert.minilm_tokenizer().read_bytes()[:1000]):
        (tmp_path / "tokenizer.json").write_bytes(contents)
        with pytest.raises(BadModelFile, match="tokenizer"):
            TextTask(TEXT, model_of(tmp_path))


# Pairs

QUERY = "Why did the press stop?"


@pytest.fixture(scope="session")
def ranker() -> tuple[bert.Bert, onnxruntime.InferenceSession]:
    model = bert.random_bert(seed=7)
    return model, onnxruntime.InferenceSession(bert.as_onnx(model))


def pairs(settings: TextSettings = TEXT) -> PairTask:
    return PairTask(settings, model_of(outputs=LOGITS))


@pytest.mark.parametrize(("most", "together"), [(32, 1), (1, 1), (3, 2)])
def test_scores_are_those_of_the_reference(
    ranker: Any, tokenizer: Tokenizer, most: int, together: int
) -> None:
    """Query and document in one row, with their types, against a forward pass in numpy."""
    model, session = ranker
    found = computed(pairs(), session, PairWork(QUERY, bert.SENTENCES), most, together)
    expected = [bert.score(model, tokenizer, QUERY, text) for text in bert.SENTENCES]
    assert np.allclose(found.scores, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1  # or nothing would be told by the comparison


def test_scores_without_activation_are_the_models_numbers(ranker: Any) -> None:
    """For models that are trained without one."""
    plain = computed(pairs(TextSettings(activation="none")), ranker[1], PairWork(QUERY, ["a pump"]))
    usual = computed(pairs(), ranker[1], PairWork(QUERY, ["a pump"]))
    assert usual.scores[0] == pytest.approx(1 / (1 + np.exp(-plain.scores[0])), rel=1e-6)


def test_document_is_cut_and_the_query_is_not(ranker: Any) -> None:
    """As cross-encoders are used; a query without room for a document is refused."""
    one = pairs(TextSettings(max_tokens=64))
    (piece,) = one.prepare(PairWork(QUERY, [LONG]), 32).pieces
    assert piece.length == 64
    assert piece.inputs["token_type_ids"][0].sum() == 64 - 8  # [CLS], six of the query, [SEP]
    assert computed(one, ranker[1], PairWork(QUERY, [LONG, ""])).tokens == 64 + 9
    for query in (LONG, "x" * 5000):
        with pytest.raises(ContextLengthExceeded) as refused:
            one.prepare(PairWork(query, ["a document"]), 32)
        assert refused.value.param == "query"


def test_model_with_several_labels_is_no_ranker() -> None:
    """Which of them would be the score, nobody knows."""
    outputs = [TensorFacts("logits", "FP32", [-1, 3])]
    with pytest.raises(BadModelFile, match="one score for each document"):
        PairTask(TEXT, model_of(outputs=outputs))
