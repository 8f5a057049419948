"""Vectors of GGUF models: real weights against numpy, batches of several requests, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bert
import gguf
import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from edge.engine.embedding import EmbeddingIntake, EmbeddingQueue
from edge.engine.llama import LlamaLog
from edge.engine.llama_embedder import LlamaEmbedder
from edge.errors import ContextLengthExceeded, EdgeError, InvalidRequest, ModelLoadFailed
from edge.modelstore.gguf import read_header
from edge.tensors import Inference, PairWork, TextWork
from edge.types import Embedded, EngineSettings, Event, Failed, Pace, Priority, Started
from edge.vectors import unit

SETTINGS = EngineSettings(
    backend="cpu",
    threads=2,
    gpu_layers=0,
    slots=1,
    context=0,
    kv_type="f16",
    batch=512,
    kv_budget_bytes=0,
    embeds=True,
)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = bert.random_bert(seed=5)
    return bert.as_gguf(tmp_path_factory.mktemp("bert") / "s.gguf", model, bert.minilm_tokenizer())


@pytest.fixture(scope="module")
def small(small_file: Path) -> Iterator[LlamaEmbedder]:
    embedder = LlamaEmbedder("small", small_file, SETTINGS, LlamaLog())
    yield embedder
    embedder.close()


class Asked:
    """A queue with a clock that stands still, and what came out of it."""

    def __init__(self, embedder: LlamaEmbedder) -> None:
        self.now = 0.0
        self.intake = EmbeddingIntake(embedder)
        self.queue = EmbeddingQueue(embedder, lambda: self.now)
        self.started: list[str] = []
        self.ends: dict[str, Event] = {}

    def submit(self, name: str, texts: Any, dimensions: int | None = None, **more: Any) -> None:
        inference = Inference(name, "m", TextWork(texts, dimensions), **more)
        self.queue.submit(self.intake.prepare(inference))

    def step(self) -> None:
        for event in [*self.queue.begin(), *self.queue.step()]:
            if isinstance(event, Started):
                self.started.append(event.id)
            else:
                assert isinstance(event, (Embedded, Failed))
                assert event.id not in self.ends
                self.ends[event.id] = event

    def run(self) -> None:
        while len(self.queue):
            self.step()

    def vectors(self, name: str) -> npt.NDArray[np.float32]:
        end = self.ends[name]
        assert isinstance(end, Embedded), end
        return np.frombuffer(end.data, "<f4").reshape(-1, end.width)


def test_real_weights_give_the_vectors_of_the_reference(tmp_path: Path) -> None:
    """MiniLM as a GGUF file of its own float32 weights, against a forward pass in numpy."""
    model, file = bert.minilm(), bert.minilm_tokenizer()
    path = bert.as_gguf(tmp_path / "minilm.gguf", model, file)
    assert read_header(path).embeds
    embedder = LlamaEmbedder("minilm", path, SETTINGS, LlamaLog())
    assert (embedder.pooling, embedder.width, embedder.longest) == ("mean", 384, 512)
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    reference = [bert.sentence(model, tokenizer, text) for text in bert.SENTENCES]
    asked = Asked(embedder)
    asked.submit("a", bert.SENTENCES)
    asked.submit("ids", [tokenizer.encode(text).ids for text in bert.SENTENCES])
    asked.run()
    embedder.close()
    for name in ("a", "ids"):
        assert (asked.vectors(name) * reference).sum(axis=1).min() > 0.99999
        end = asked.ends[name]
        assert isinstance(end, Embedded)
        assert end.tokens == sum(len(tokenizer.encode(text).ids) for text in bert.SENTENCES)


def test_company_changes_nothing(small: LlamaEmbedder) -> None:
    """A text has the same vector alone, in a full batch, after others, and in any order."""
    asked = Asked(small)
    for at, text in enumerate(bert.SENTENCES):
        asked.submit(f"alone{at}", [text])
        asked.run()
    many = [bert.SENTENCES[at % 10] + f" {at}" for at in range(300)]
    asked.submit("others", many, caller="x")
    asked.submit("together", bert.SENTENCES[::-1], caller="y")
    asked.run()
    alone = np.concatenate([asked.vectors(f"alone{at}") for at in range(len(bert.SENTENCES))])
    assert (asked.vectors("together")[::-1] * alone).sum(axis=1).min() > 0.99999
    assert len(asked.vectors("others")) == 300


def test_fewer_dimensions_at_length_one(small: LlamaEmbedder) -> None:
    """As OpenAI's field has it."""
    asked = Asked(small)
    asked.submit("whole", ["a pump"])
    asked.submit("short", ["a pump"], dimensions=8)
    asked.run()
    assert np.allclose(asked.vectors("short"), unit(asked.vectors("whole")[:, :8]), atol=1e-6)


def test_urgent_texts_go_first_and_callers_take_turns(small: LlamaEmbedder) -> None:
    """However many texts somebody else sent before."""
    asked = Asked(small)
    page = "word " * 400
    for name, caller in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        asked.submit(name, [page], caller=caller)
    asked.submit("batch", [page], caller="c", priority="batch")
    asked.submit("critical", [page], caller="a", priority="critical")
    asked.run()
    assert asked.started == ["critical", "b1", "a1", "a2", "a3", "batch"]
    asked.submit("old", [page], caller="n", priority="batch")
    asked.now = 60.0
    asked.submit("late", [page], caller="z")
    asked.submit("late2", [page], caller="z")
    asked.run()
    assert asked.started[6:] == ["old", "late", "late2"]


@pytest.mark.parametrize(
    ("waiting", "seconds"),
    [
        (["batch"], 3.0),
        (["batch", "normal"], 1.0),
        (["batch", "normal", "critical"], 0.0),
        ([], 0.0),
    ],
)
def test_rest_after_a_batch_is_that_of_the_most_urgent(
    small: LlamaEmbedder, waiting: list[Priority], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(small)
    compute = small.compute

    def a_second(rows: list[list[int]]) -> npt.NDArray[np.float32]:
        asked.now += 1.0
        return compute(rows)

    monkeypatch.setattr(small, "compute", a_second)
    asked.queue.pace = Pace(duty=0.5, batch_duty=0.25)
    asked.submit("first", ["word"])
    asked.step()
    for priority in waiting:
        asked.submit(priority, ["word"], priority=priority)
    assert asked.queue.rest == seconds
    asked.now += 0.5
    assert asked.queue.rest == max(0.0, seconds - 0.5)
    asked.queue.pace = Pace()
    assert asked.queue.rest == 0.0


def test_choosing_anew_in_a_rest_takes_nobodys_turn(small: LlamaEmbedder) -> None:
    """The worker chooses again with each message that comes meanwhile."""
    asked = Asked(small)
    page = "word " * 400
    for name, caller in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
        asked.submit(name, [page], caller=caller)
    for _ in range(3):
        assert [event.id for event in asked.queue.begin()] in (["a1"], [])
    asked.run()
    assert list(asked.ends) == ["a1", "b1", "a2", "b2"]


def test_cancelled_and_expired_texts_are_not_computed(small: LlamaEmbedder) -> None:
    """Nor is what is left of those that were begun."""
    asked = Asked(small)
    page = "word " * 400
    asked.submit("cancelled", [page] * 5)
    asked.submit("late", [page] * 5, deadline=10.0)
    asked.step()
    asked.queue.cancel("cancelled")
    asked.queue.cancel("nobody")
    asked.step()
    asked.now = 11.0
    asked.run()
    end = asked.ends.pop("late")
    assert isinstance(end, Failed)
    assert end.code == "deadline_exceeded"
    assert asked.ends == {}
    assert asked.queue.steps == 2


BAD: dict[str, tuple[TextWork | PairWork, type[EdgeError], str]] = {
    "empty": (TextWork(["a", ""]), InvalidRequest, "input[1]"),
    "no ids": (TextWork([[]]), InvalidRequest, "input[0]"),
    "foreign id": (TextWork([[0, 99999]]), InvalidRequest, "input[0]"),
    "a page too many": (TextWork(["word " * 600]), ContextLengthExceeded, "input[0]"),
    "ids too many": (TextWork([[5] * 513]), ContextLengthExceeded, "input[0]"),
    "a book": (TextWork(["x" * 100_000]), ContextLengthExceeded, "input[0]"),
    "dimensions": (TextWork(["a"], 33), InvalidRequest, "dimensions"),
    "kind": (TextWork(["a"], kind="query"), InvalidRequest, "input_type"),
    "pairs": (PairWork("q", ["d"]), InvalidRequest, "model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_its_place(small: LlamaEmbedder, case: str) -> None:
    """Before anything is computed."""
    work, error, param = BAD[case]
    with pytest.raises(error) as refused:
        EmbeddingIntake(small).prepare(Inference("a", "m", work))
    assert refused.value.param == param


@pytest.mark.parametrize("text", ["\x00", " ", "\u200b", "\ud800", "x" * 800, "\U0001f600" * 50])
def test_odd_texts_have_a_vector(small: LlamaEmbedder, text: str) -> None:
    """Also those of which the tokenizer leaves nothing but its own tokens."""
    asked = Asked(small)
    asked.submit("odd", [text])
    asked.run()
    assert np.linalg.norm(asked.vectors("odd")) == pytest.approx(1, abs=1e-5)


def test_model_that_ranks_is_no_embedder(tmp_path: Path) -> None:
    """Its one number is no vector of a text."""
    model, tokenizer = bert.random_bert(seed=5), bert.minilm_tokenizer()
    path = bert.as_gguf(tmp_path / "r.gguf", model, tokenizer, pooling=gguf.PoolingType.RANK)
    assert read_header(path).embeds
    with pytest.raises(ModelLoadFailed, match="makes no vectors"):
        LlamaEmbedder("ranker", path, SETTINGS, LlamaLog())
