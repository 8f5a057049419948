"""`edge tune`: which engine settings are the fastest on this machine, measured and written down.

Ctrl-C ends the measurement and shows what there is; nothing is written then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from edge.cli import options, output
from edge.cli.disturbance import disturbances
from edge.cli.failure import INTERRUPTED
from edge.cli.tune_power import tune_power
from edge.config import reader
from edge.config.place import state_dir
from edge.config.tree import Config
from edge.errors import ConfigError
from edge.modelstore import gguf
from edge.modelstore.quantize import quantize
from edge.modelstore.store import Installed, ModelStore
from edge.tuning.candidate import TUNED, Figures
from edge.tuning.config_edit import check_writable, write
from edge.tuning.survey import Findings, survey, told
from edge.tuning.trial import Trial


@click.command("tune")
@options.config_file
@click.option("--model", metavar="NAME", help="Model to measure with; models.default if left out.")
@click.option(
    "--minutes",
    type=click.FloatRange(0.05, 240),
    default=3.0,
    help="Time for the measurement; 3 if left out.",
)
@click.option(
    "--weights",
    is_flag=True,
    help="Make a Q4_0 copy of the model under a name of its own, and measure it too.",
)
@click.option("--apply", is_flag=True, help="Write the result without asking.")
@click.option(
    "--power",
    is_flag=True,
    help="Measure a Jetson's power modes instead: which makes the most tokens of a joule.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0),
    help="With --power: tokens per second that one stream must have.",
)
@click.option("--yes", is_flag=True, help="With --power: set modes without asking.")
@options.as_json
def command(
    config_file: str | None,
    model: str | None,
    minutes: float,
    weights: bool,
    apply: bool,
    power: bool,
    speed: float | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Measure threads, batch, slots and KV type, and write the best into the configuration.

    A value is proposed where it is faster by more than the measurement varies; one that changes
    answers only if 97 % of the tokens at temperature 0 stay the same. The machine should have
    nothing else to do meanwhile.

    With --power each power mode is set for a while (this is asked first), and at the end the one
    that was set before; the best is set where you say so.
    """
    if power and (apply or weights):
        raise click.UsageError("--power goes without --apply and --weights: it writes no file")
    if (speed is not None or yes) and not power:
        raise click.UsageError("--speed and --yes belong to --power")
    config = reader.load(config_file)
    if power:
        name = model or config.models.default
        return tune_power(config, name, minutes, speed or 0.0, yes=yes, as_json=as_json)
    target = reader.find_file(config_file)
    if apply:
        check_writable(_existing(target))
    store = ModelStore(state_dir() / "models")
    name = model or config.models.default
    _warn(config)
    findings = Findings(name)
    with store.hold(name) as held:
        gguf.read_generating(held.path)
        other = _requantized(store, held) if weights else None
        whole = asyncio.run(_measure(findings, held.path, config, minutes * 60, other))
    written = None
    if not as_json:
        _show(findings)
    if whole and findings.proposal and (apply or (not as_json and _agreed(target))):
        written = _existing(target)
        backup = write(written, findings.proposal, findings.comment())
        _note(f"{written} is changed, and {backup} is as it was. Restart the daemon to use it.")
    elif findings.proposal and not as_json:
        _note("Nothing is written; --apply writes it.")
    if as_json:
        place = str(written) if written else None
        output.json({**msgspec.to_builtins(findings), "whole": whole, "written": place})
    return 0 if whole else INTERRUPTED


async def _measure(
    findings: Findings, path: Path, config: Config, seconds: float, weights: Path | None
) -> bool:
    """False when it was interrupted."""
    task = asyncio.create_task(
        survey(findings, path, config.engine, seconds, weights, _note), name="survey"
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


def _requantized(store: ModelStore, model: Installed) -> Path | None:
    if gguf.read_header(model.path).file_type == "Q4_0":
        _note(f"{model.name} has Q4_0 weights already")
        return None
    _note(f"making a Q4_0 copy of {model.name}; the original stays as it is")
    return quantize(store, model, "Q4_0").path


def _existing(target: Path | None) -> Path:
    if target is None:
        raise ConfigError(
            "there is no configuration file to write to",
            hint="name one with --config, or make an empty /etc/edge/edge.yaml",
        )
    return target


def _agreed(target: Path | None) -> bool:
    """Asks on a terminal; elsewhere nobody is there to agree."""
    if target is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm(f"Write this into {target}?")


def _warn(config: Config) -> None:
    """Of what makes the result less than it looks."""
    for key in TUNED:
        variable = f"EDGE_ENGINE__{key.upper()}"
        if variable in os.environ:
            _note(f"Warning: {variable} is set, and wins over what a file says")
    for disturbance in disturbances(config):
        _note(f"Warning: {disturbance}")


def _note(text: str) -> None:
    click.echo(output.harmless(text), err=True)


def _show(findings: Findings) -> None:
    table = output.columns(
        "KEY", "VALUE", "PROMPT", "1 STREAM", "16 AT ONCE", "MEMORY", "RATIO", ""
    )
    if findings.base is not None:
        table.add_row("as it is", "", *_cells(findings.base), "1.00", "")
    for trial in findings.trials:
        _add(table, trial)
    output.show(table)
    for trial in findings.options():
        output.show(f"Faster, and yours to decide: {told(trial)}")
        if trial.key == "weights":
            output.show(f"  models: {{default: {Path(trial.value).stem}}}")
    if findings.proposal:
        lines = [f"  {key}: {value}" for key, value in findings.proposal.items()]
        output.show("engine:", *lines)
    else:
        output.show("Nothing is faster than what is in force, as far as this could be told.")


def _add(table: Table, trial: Trial) -> None:
    value: Any = Path(trial.value).stem if trial.key == "weights" else trial.value
    ratio = "-" if trial.ratio is None else f"{trial.ratio:.2f}"
    if trial.low is not None and trial.high is not None:
        ratio += f" ({trial.low:.2f} to {trial.high:.2f})"
    cells = _cells(trial.figures) if trial.figures else ["-"] * 4
    same = "" if trial.agreement is None else f", {trial.agreement:.1%} the same"
    table.add_row(trial.key, str(value), *cells, ratio, trial.verdict + same)


def _cells(figures: Figures) -> list[str]:
    rates = (figures.prompt, figures.single, figures.crowd)
    return [*(f"{rate:.0f} tok/s" for rate in rates), output.size(figures.memory_bytes)]
