"""One run of optimizing: what is made, what is chosen, what is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edge.config.models import Engine
from edge.disk import sha256_of
from edge.errors import ModelInUse, ModelLoadFailed, PullFailed
from edge.host import cpu
from edge.modelstore import gguf
from edge.modelstore.quantize import WeightsType
from edge.modelstore.store import DRAFT, ModelStore
from edge.modelstore.versions import manifest_of
from edge.tuning import weights
from edge.tuning.candidate import Figures
from edge.tuning.loss import Loss
from edge.tuning.passages import PASSAGES
from edge.tuning.trial import Trial, Verdict
from edge.tuning.weights import MOST_DIVERGENCE, Optimization, Outcome, chosen

ENGINE = Engine(threads=1, slots=4, context=256, batch=64)
FIGURES = Figures(100, 20, 60, 400_000_000)


@pytest.fixture
def store(tmp_path: Path, default_model_path: Path) -> ModelStore:
    """The real model as version 1 of `m`; its bytes are shared."""
    store = ModelStore(tmp_path / "models")
    with store.claim("m") as folder:
        copy = folder / "copy"
        shutil.copyfile(default_model_path, copy)
        manifest = manifest_of(gguf.read_header(copy), sha256_of(copy), "file:x", "Apache-2.0")
        store.add("m", copy, manifest)
    return store


@pytest.fixture
def work(store: ModelStore) -> Optimization:
    work = Optimization(store, store.get("m"), ENGINE)
    work.passages = (PASSAGES[0][:100],)
    work.round_seconds = 0.01
    return work


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every type were half as fast again: no machine gives the same twice."""

    async def race(work: Optimization, *rest: Any) -> None:
        for one in work.findings.outcomes:
            one.trial = Trial("weights", one.type, "better", 1.5, 1.4, 1.6, FIGURES)

    monkeypatch.setattr(Optimization, "_race", race)


def outcome(
    kind: WeightsType,
    ratio: float | None,
    reach: float = 0.05,
    loss: float | None = 0.01,
    verdict: Verdict = "better",
) -> Outcome:
    low, high = (ratio - reach, ratio + reach) if ratio else (None, None)
    lost = None if loss is None else Loss(100, loss, 0.001, 0.9, 15.0, 14.0)
    return Outcome(kind, Trial("weights", kind, verdict, ratio, low, high), 1, lost)


def test_fastest_of_those_that_lose_little_is_chosen() -> None:
    """And with a type that the user named its loss is no matter."""
    fine, coarse = outcome("Q8_0", 1.2), outcome("Q4_0", 1.8, loss=MOST_DIVERGENCE * 1.01)
    assert (fine.verdict, coarse.verdict) == ("better", "loses too much")
    assert chosen([fine, coarse], named=False) is fine
    assert chosen([coarse], named=False) is None
    assert chosen([coarse], named=True) is coarse


def test_of_those_that_may_be_as_fast_the_one_that_loses_least() -> None:
    """A difference within the noise decides nothing."""
    fast, fine = outcome("Q4_0", 1.55, loss=0.03), outcome("IQ4_NL", 1.5, loss=0.02)
    assert chosen([fast, fine], named=False) is fine
    clear = outcome("Q4_0", 1.7, loss=0.03)
    assert chosen([clear, fine], named=False) is clear


@pytest.mark.parametrize("named", [False, True])
def test_nothing_better_is_nothing_chosen(named: bool) -> None:
    """Neither what is slower, nor what may be, nor what does not load."""
    slower = outcome("Q8_0", 0.7, verdict="no better")
    even = outcome("Q6_K", 1.02, verdict="no better")
    broken = outcome("Q4_0", None, loss=None, verdict="fails")
    unknown = outcome("Q4_1", None, verdict="out of time")
    verdicts = [one.verdict for one in (slower, even, broken, unknown)]
    assert verdicts == ["no better", "undecided", "fails", "not measured"]
    assert chosen([slower, even, broken, unknown], named) is None


@pytest.mark.timeout(300)
def test_version_is_made_with_its_figures(
    work: Optimization, store: ModelStore, faster: None
) -> None:
    """The source is what the name means, and no draft stays."""
    source = store.get("m")
    work.run(["Q4_0"], lambda text: None, named=True)
    made = work.findings.installed
    assert made
    assert (made.name, made.version, made.active) == ("m", 2, False)
    assert store.get("m") == source
    assert gguf.read_header(made.path).file_type == "Q4_0"
    manifest = made.manifest
    assert manifest
    assert manifest.source == "optimized from m@1: Q4_0"
    assert manifest.licence == "Apache-2.0"
    assert source.manifest
    assert manifest.revision == source.manifest.sha256
    measured = manifest.measured
    assert measured
    assert (measured.against, measured.speed, measured.machine) == (1, 1.5, cpu.model())
    assert measured.divergence > 0.01
    assert measured.source_perplexity > 1
    assert not list(store.directory.rglob(f"*{DRAFT}"))


@pytest.mark.timeout(300)
def test_real_timing_beside_one_that_fails(
    work: Optimization, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be loaded is a finding, and the other is measured."""
    right = weights.convert

    def convert(source: Path, target: Path, kind: WeightsType) -> None:
        if kind == "Q8_0":
            raise ModelLoadFailed("llama.cpp died")
        right(source, target, kind)

    monkeypatch.setattr(weights, "convert", convert)
    said: list[str] = []
    work.run(["Q8_0", "Q4_0"], said.append)
    broken, real = work.findings.outcomes
    assert (broken.verdict, broken.trial.error) == ("fails", "llama.cpp died")
    assert real.verdict in ("better", "loses too much", "no better", "undecided")
    assert real.trial.figures
    assert min(real.trial.figures.prompt, real.trial.figures.single, real.trial.figures.crowd) > 0
    assert work.findings.base
    assert f"Q4_0: {real.verdict}" in said
    assert not list(store.directory.rglob(f"*{DRAFT}"))


def test_full_disk_is_noticed_before_anything_is_made(
    work: Optimization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is needed: a finer type needs more than the source."""
    room = shutil.disk_usage("/")._replace(free=150_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    with pytest.raises(PullFailed, match="not enough room"):
        work.run(["Q8_0"], lambda text: None)
    assert work.findings.outcomes == []


def test_model_without_versions_is_refused(tmp_path: Path, default_model_path: Path) -> None:
    """Before minutes of work: a file that was copied in wins over every version."""
    (tmp_path / "m.gguf").symlink_to(default_model_path)
    store = ModelStore(tmp_path)
    with pytest.raises(ModelInUse, match="no versions"):
        Optimization(store, store.get("m"), ENGINE)
