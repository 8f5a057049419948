"""What a copy with other weights loses, read with the real model beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from pathlib import Path

import gguf
import numpy as np
import pytest

from edge.engine.backend import Backend
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.errors import ModelLoadFailed
from edge.modelstore.quantize import convert
from edge.tuning.loss import Loss, compare, compare_files
from edge.tuning.passages import PASSAGES
from edge.types import EngineSettings

LOG = LlamaLog()

SETTINGS = EngineSettings("cpu", 1, None, 1, 512, "f16", 64, 0)
SHORT = (PASSAGES[0][:200],)

Against = Callable[[Path], Loss]


@pytest.fixture(scope="module")
def against(default_model_path: Path) -> Iterator[Against]:
    """What a file loses that is read beside the default model."""
    source = LlamaBackend("source", default_model_path, SETTINGS, LOG)

    def lost(path: Path) -> Loss:
        copy = LlamaBackend("copy", path, SETTINGS, LOG)
        try:
            return compare(source, copy, SHORT, bos=source.vocabulary.adds_bos)
        finally:
            copy.close()

    yield lost
    source.close()


def shuffled(path: Path, target: Path) -> Path:
    """The model with the weights of its layers in another order: noise of the same size."""
    target.write_bytes(path.read_bytes())
    reader = gguf.GGUFReader(target, "r+")
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and tensor.tensor_type.name == "Q4_1":
            blocks = tensor.data.reshape(-1, 20)
            blocks[:] = np.random.default_rng(1).permutation(blocks)
    del reader
    return target


def test_copy_of_a_model_loses_nothing(against: Against, default_model_path: Path) -> None:
    """To the last bit, read chunk by chunk."""
    loss = against(default_model_path)
    assert loss.divergence < 1e-6
    assert loss.agreement == 1
    assert loss.perplexity == loss.source_perplexity > 1
    assert loss.tokens > 30


def test_coarser_weights_lose_more(
    against: Against, default_model_path: Path, tmp_path: Path
) -> None:
    """8 bits next to nothing, 2 bits a lot, weights in disorder everything."""
    losses = []
    for kind in ("Q8_0", "Q2_K"):
        convert(default_model_path, tmp_path / kind, kind)
        losses.append(against(tmp_path / kind))
    fine, coarse = losses
    noise = against(shuffled(default_model_path, tmp_path / "noise"))
    assert 0 < fine.divergence < 0.05 < coarse.divergence < noise.divergence
    assert fine.agreement > coarse.agreement > noise.agreement
    assert noise.divergence > 3
    assert log(noise.perplexity) - log(noise.source_perplexity) > 3
    assert coarse.error > 0


def test_files_are_compared_in_a_process_of_their_own(default_model_path: Path) -> None:
    """What comes back is the same."""
    loss = compare_files(default_model_path, default_model_path, SETTINGS, (PASSAGES[0][:60],))
    assert loss.divergence < 1e-6


def test_file_that_does_not_load_is_a_finding(default_model_path: Path, tmp_path: Path) -> None:
    """With a reason in one line."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(default_model_path.read_bytes()[:100_000])
    with pytest.raises(ModelLoadFailed, match=r"bad\.gguf cannot be compared"):
        compare_files(default_model_path, bad, SETTINGS, SHORT)


class Constant:
    """A backend whose logits are always the same row."""

    slots, context, batch, outputs = 1, 64, 8, 4
    can_truncate = can_cut_snapshots = True

    def __init__(self, *row: float) -> None:
        self.row = np.array(row, np.float32)
        self.asked = 0
        self.vocabulary = self

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return [int(character) for character in text]

    def truncate(self, slot: int, length: int) -> None:
        assert (slot, length) == (0, 0)

    def decode(self, chunks: list[object]) -> None:
        (chunk,) = chunks
        self.asked = len(chunk.tokens)  # type: ignore[attr-defined]
        assert self.asked <= self.outputs

    def logits(self) -> np.ndarray:
        return np.tile(self.row, (self.asked, 1))


def measured(source: Constant, copy: Constant, *passages: str) -> Loss:
    one: Backend = source  # type: ignore[assignment]
    other: Backend = copy  # type: ignore[assignment]
    return compare(one, other, passages, bos=False)


def test_figures_are_what_their_formulas_say() -> None:
    """Distributions of 3/4 and 1/4 against one half each, ten places in two passages."""
    skewed, even = Constant(log(3.0), 0.0), Constant(7.0, 7.0)
    loss = measured(skewed, even, "010101", "111111")
    assert loss.tokens == 10
    wanted = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert loss.divergence == pytest.approx(wanted, rel=1e-6)
    assert loss.error == pytest.approx(0, abs=1e-9)
    assert loss.perplexity == pytest.approx(2)
    assert loss.source_perplexity == pytest.approx(np.exp(-(2 * log(0.75) + 8 * log(0.25)) / 10))
    assert loss.agreement == 1
    assert measured(skewed, Constant(0.0, 1.0), "01").agreement == 0


def test_numbers_that_are_none_are_no_figures() -> None:
    """A broken copy fails, and does not win by comparing with nothing."""
    with pytest.raises(ModelLoadFailed, match="not finite"):
        measured(Constant(0.0, 1.0), Constant(0.0, float("nan")), "0101")
    with pytest.raises(ModelLoadFailed):
        measured(Constant(0.0, 1.0), Constant(0.0, 1.0), "0")
