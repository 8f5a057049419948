"""One run of `edge models optimize`: other weights types of a model, made, compared and installed.

Each type is made as a draft in the store, read beside the source for what it loses, and timed in
turns with it. Whatever ends the run, the source is as it was and the drafts are gone, or are
taken by the next sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edge.config.models import Engine
from edge.disk import sha256_of
from edge.errors import EdgeError, ModelInUse
from edge.host import cpu, memory
from edge.modelstore import gguf
from edge.modelstore.quantize import WeightsType, convert
from edge.modelstore.store import DRAFT, Installed, ModelStore
from edge.modelstore.versions import Measured, manifest_of
from edge.modelstore.workspace import Workspace, unwatched
from edge.runtime.settings import engine_settings
from edge.tuning.candidate import Candidate, Figures, typical
from edge.tuning.kernels import bits
from edge.tuning.loss import Loss, compare_files
from edge.tuning.passages import PASSAGES
from edge.tuning.trial import LEAST_GAIN, Trial, compare
from edge.tuning.workers import Workers

MOST_DIVERGENCE = 0.05
"""Nats for each token that a type may lose to be chosen by itself. With SmolLM2 135M that is where
seven in eight tokens stay the likeliest and the perplexity grows by 6 % (docs/performance.md has
the table)."""

CROWD = 8
"""Requests at once in a round."""

ROUND_SECONDS = 2.0

Verdict = Literal["better", "loses too much", "no better", "undecided", "fails", "not measured"]


class Outcome(msgspec.Struct):
    """What came of one type. trial: against the source."""

    type: WeightsType
    trial: Trial
    size_bytes: int | None = None
    loss: Loss | None = None

    @property
    def verdict(self) -> Verdict:
        trial, loss = self.trial, self.loss
        if trial.verdict == "fails":
            return "fails"
        if trial.verdict == "better":
            lossy = loss is None or loss.divergence > MOST_DIVERGENCE
            return "loses too much" if lossy else "better"
        if trial.ratio is None:
            return "not measured"
        is_open = trial.low and trial.high and trial.low <= LEAST_GAIN < trial.high
        return "undecided" if is_open else "no better"


class Findings(msgspec.Struct):
    """What is known, at whatever moment the run ended. base: figures of the source."""

    model: str
    version: int | None
    type: str | None
    base: Figures | None = None
    outcomes: list[Outcome] = []
    installed: Installed | None = None


class Optimization:
    """`run` it with the source held; `findings` is what is known whenever that ends."""

    def __init__(self, store: ModelStore, source: Installed, engine: Engine) -> None:
        """Raises `ModelInUse` where the model can get no other version, `BadModelFile`."""
        if source.version is None:
            raise ModelInUse(
                f"{source.path} was copied in by hand, or is of an earlier release and in use: "
                f"it has no versions",
                hint=f"move it out of the models directory, then edge models import it; or restart "
                f"the daemon, which takes {source.name} over if it was pulled",
            )
        self.header = gguf.read_generating(source.path)
        self.findings = Findings(source.name, source.version, self.header.file_type)
        self.passages: Sequence[str] = PASSAGES
        self.round_seconds = ROUND_SECONDS
        self._store = store
        self._source = source
        cores = cpu.usable_cores()
        settings = engine_settings(engine, cores, memory.available_bytes() or 0)
        self._base = Candidate(source.path, settings)

    def run(
        self, kinds: Sequence[WeightsType], follow: Callable[[str], None], named: bool = False
    ) -> None:
        """Try these types, and install the best that loses no more than it may, if one is better.

        named: the user asked for this type, so that its loss decides nothing. Raises `PullFailed`
        where the disk has no room, `EdgeError` where the source itself does not load.
        """
        with self._store.claim(self._source.name) as folder:
            drafts = {kind: folder / f"{kind}{DRAFT}" for kind in kinds}
            Workspace(folder, unwatched).require(sum(map(self._room, kinds)))
            try:
                for kind in kinds:
                    follow(f"making {kind} of {self.findings.model} and reading with both")
                    self._prepare(kind, drafts[kind])
                if any(outcome.loss for outcome in self.findings.outcomes):
                    follow("timing them in turns with the source")
                    asyncio.run(self._race(drafts, follow))
                if best := chosen(self.findings.outcomes, named):
                    self.findings.installed = self._install(best, drafts[best.type])
            finally:
                for draft in drafts.values():
                    draft.unlink(missing_ok=True)

    def _room(self, kind: WeightsType) -> int:
        """Bytes at most: some tensors of a file are finer than its type, and stay so."""
        finer = (bits(kind) or 0) / (bits(self.findings.type) or 1)
        return round(self._source.size * max(1.0, finer) * 1.1)

    def _prepare(self, kind: WeightsType, draft: Path) -> None:
        outcome = Outcome(kind, Trial("weights", kind))
        self.findings.outcomes.append(outcome)
        try:
            convert(self._source.path, draft, kind)
            outcome.size_bytes = gguf.read_header(draft).size_bytes
            settings = self._base.settings
            outcome.loss = compare_files(self._source.path, draft, settings, self.passages)
        except EdgeError as error:
            outcome.trial.verdict, outcome.trial.error = "fails", error.message

    async def _race(self, drafts: dict[WeightsType, Path], follow: Callable[[str], None]) -> None:
        rounds: list[Figures] = []
        async with Workers(self._base, CROWD) as workers:
            await workers.calibrate(self._base, self.round_seconds)
            for outcome in self.findings.outcomes:
                if outcome.loss is None:
                    continue
                candidate = Candidate(drafts[outcome.type], self._base.settings)
                try:
                    rounds += await compare(
                        workers, outcome.trial, self._base, candidate, in_time=lambda: True
                    )
                except EdgeError as error:
                    outcome.trial.verdict, outcome.trial.error = "fails", error.message
                await workers.keep(self._base)
                follow(f"{outcome.type}: {outcome.verdict}")
        self.findings.base = typical(rounds) if rounds else None

    def _install(self, best: Outcome, draft: Path) -> Installed:
        source, loss, trial = self._source, best.loss, best.trial
        assert source.version
        assert loss
        assert trial.ratio
        assert trial.low
        assert trial.high
        measured = Measured(
            against=source.version,
            machine=cpu.model(),
            speed=trial.ratio,
            slowest=trial.low,
            fastest=trial.high,
            divergence=loss.divergence,
            agreement=loss.agreement,
            perplexity=loss.perplexity,
            source_perplexity=loss.source_perplexity,
        )
        said = source.manifest
        manifest = manifest_of(
            gguf.read_header(draft),
            sha256_of(draft),
            f"optimized from {source.name}@{source.version}: {best.type}",
            said.licence if said else "",
            said.sha256 if said else None,
        )
        manifest = msgspec.structs.replace(manifest, measured=measured)
        return self._store.add(source.name, draft, manifest)


def chosen(outcomes: Sequence[Outcome], named: bool) -> Outcome | None:
    """The fastest of those that are better; of those that may be as fast, what loses least."""
    verdicts = ("better", "loses too much") if named else ("better",)
    better = [one for one in outcomes if one.verdict in verdicts]
    if not better:
        return None
    fastest = max(better, key=lambda one: one.trial.ratio or 0)
    even = [one for one in better if (one.trial.high or 0) >= (fastest.trial.low or 0)]
    return min(even, key=lambda one: one.loss.divergence if one.loss else 0)
