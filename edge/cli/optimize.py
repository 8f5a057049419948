"""`edge models optimize`: the weights type that is fastest here and loses little, as a new version.

Ctrl-C ends it, and nothing is installed.
"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from edge.cli import options, output
from edge.cli.disturbance import disturbances
from edge.config import reader
from edge.config.place import state_dir
from edge.config.tree import Config
from edge.errors import ModelLoadFailed
from edge.host import llama_build
from edge.host.llama_build import BrokenBuild
from edge.modelstore.quantize import WEIGHTS_TYPES, WeightsType
from edge.modelstore.store import ModelStore
from edge.tuning.candidate import Figures
from edge.tuning.kernels import bits, candidates, is_packed, packed_by_build
from edge.tuning.weights import MOST_DIVERGENCE, Findings, Optimization, Outcome


@click.command("optimize")
@click.argument("name")
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    type=click.Choice(WEIGHTS_TYPES),
    help=f"Measure this one, and install it if it is faster, whatever it loses: "
    f"{', '.join(WEIGHTS_TYPES)}.",
)
@options.config_file
@options.as_json
def command(name: str, kind: WeightsType | None, config_file: str | None, as_json: bool) -> int:
    """Find the weights type that is fastest on this machine, and install it as a new version.

    The types that llama.cpp lays out anew for this processor are made of the installed file, read
    beside it for what they lose, and timed in turns with it. One that is faster by more than the
    measurement varies and loses no more than 0.05 nats a token is installed; the source stays,
    and the name goes on meaning it until `edge models use`. The machine should have nothing else
    to do meanwhile.
    """
    config = reader.load(config_file)
    store = ModelStore(state_dir() / "models")
    store.take_over()
    for disturbance in disturbances(config):
        _note(f"Warning: {disturbance}")
    with store.hold(name) as source:
        work = Optimization(store, source, config.engine)
        kinds = [kind] if kind else _kinds(work, config)
        if kind:
            _warn_of(kind, work.findings)
        if kinds:
            work.run(kinds, _note, named=kind is not None)
    findings = work.findings
    if as_json:
        output.json(_facts(findings))
    else:
        _show(findings)
    return 0


def _kinds(work: Optimization, config: Config) -> list[WeightsType]:
    """Says why there are none, where there are none."""
    build = llama_build.probe()
    if isinstance(build, BrokenBuild):
        raise ModelLoadFailed(f"llama.cpp cannot be used: {build.why}", hint="edge doctor")
    on_gpu = build.gpu_offload and config.engine.backend != "cpu"
    packed = packed_by_build(build.system_info)
    kinds = candidates(work.header, packed, on_gpu)
    is_type = work.findings.type
    if not kinds and is_type is None:
        _note("its file does not say what type its weights are; name one with --type")
    elif not kinds:
        fast = on_gpu or is_packed(is_type or "", packed)
        here = "is computed well here" if fast else "has no faster neighbour here"
        _note(f"{is_type} {here}, and finer types would add no quality")
    return kinds


def _warn_of(kind: WeightsType, findings: Findings) -> None:
    limit = bits(findings.type)
    if limit is not None and (bits(kind) or 0) > limit:
        _note(
            f"{kind} is finer than {findings.type}: it adds no quality and takes more memory, so "
            "that only its speed can speak for it"
        )


def _facts(findings: Findings) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(findings, enc_hook=str)
    for row, outcome in zip(facts["outcomes"], findings.outcomes, strict=True):
        row["verdict"] = outcome.verdict
    return facts | {"most_divergence": MOST_DIVERGENCE}


def _show(findings: Findings) -> None:
    if findings.outcomes:
        table = output.columns(
            *("TYPE", "SIZE", "PROMPT", "1 STREAM", "8 AT ONCE", "MEMORY"),
            *("RATIO", "KL", "SAME", "PERPLEXITY", ""),
        )
        losses = [one.loss for one in findings.outcomes if one.loss]
        perplexity = f"{losses[0].source_perplexity:.2f}" if losses else "-"
        base = _rates(findings.base)
        table.add_row(findings.type or "-", "", *base, "1.00", "0", "", perplexity, "the source")
        for outcome in findings.outcomes:
            table.add_row(*_row(outcome))
        output.show(table)
    for outcome in findings.outcomes:
        if outcome.trial.error:
            output.show(f"{outcome.type}: {output.harmless(outcome.trial.error)}")
    _conclude(findings)


def _conclude(findings: Findings) -> None:
    made = findings.installed
    if made is not None:
        output.show(f"{made.name}@{made.version} is installed, and what it was made of stays.")
        output.show(f"To use it: edge models use {made.name}@{made.version}")
        return
    lossy = [one for one in findings.outcomes if one.verdict == "loses too much"]
    output.show("Nothing is installed: no type is faster beyond doubt and loses little enough.")
    for outcome in lossy:
        limit = f"more than {MOST_DIVERGENCE} nats a token"
        output.show(
            f"{outcome.type} is faster and loses {limit}. If that is worth it to you:",
            f"  edge models optimize {findings.model} --type {outcome.type}",
        )


def _row(outcome: Outcome) -> list[str]:
    trial, loss = outcome.trial, outcome.loss
    ratio = "-" if trial.ratio is None else f"{trial.ratio:.2f}"
    if trial.low is not None and trial.high is not None:
        ratio += f" ({trial.low:.2f} to {trial.high:.2f})"
    lost = ["-"] * 3
    if loss is not None:
        lost = [f"{loss.divergence:.4f}", f"{loss.agreement:.1%}", f"{loss.perplexity:.2f}"]
    size = output.size(outcome.size_bytes) if outcome.size_bytes else "-"
    return [outcome.type, size, *_rates(trial.figures), ratio, *lost, outcome.verdict]


def _rates(figures: Figures | None) -> list[str]:
    if figures is None:
        return ["-"] * 4
    rates = (figures.prompt, figures.single, figures.crowd)
    return [*(f"{rate:.0f} tok/s" for rate in rates), output.size(figures.memory_bytes)]


def _note(text: str) -> None:
    click.echo(output.harmless(text), err=True)
