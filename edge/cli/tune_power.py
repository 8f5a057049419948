"""`edge tune --power`: measures each power mode of a Jetson, shows what a token costs in it, and
sets the best one where somebody said so. Whatever ends the measurement, the mode is as it was."""

from __future__ import annotations

import asyncio
import sys

import click

from edge.cli import output
from edge.cli.disturbance import disturbances
from edge.cli.failure import INTERRUPTED
from edge.config.place import state_dir
from edge.config.tree import Config
from edge.errors import EdgeError
from edge.host.root import host_root
from edge.modelstore import gguf
from edge.modelstore.store import ModelStore
from edge.tuning.power_mode import ENDINGS, NoPowerModes, PowerModes
from edge.tuning.power_survey import ModeFigures, PowerSurvey, recommended


class NobodyAgreed(EdgeError):
    """Power modes are set only where somebody said so."""

    code = "not_confirmed"


class TooSlow(EdgeError):
    """No mode gives the speed that was asked for."""

    code = "too_slow"


def tune_power(
    config: Config, name: str, minutes: float, speed: float, *, yes: bool, as_json: bool
) -> int:
    """Returns the exit code."""
    modes = PowerModes(host_root(), state_dir() / "power-tune.json")
    if (left := modes.mend()) is not None:
        _note(f"Warning: {left}")
    for disturbance in disturbances(config):
        _note(f"Warning: {disturbance}")
    with ModelStore(state_dir() / "models").hold(name) as held:
        gguf.read_generating(held.path)
        survey = PowerSurvey(modes, host_root(), held.path, config.engine)
        _ask_to_begin(survey, minutes, yes)
        with modes.kept():
            whole = asyncio.run(_measure(survey, minutes * 60))
    best = recommended(survey.figures, speed) if whole else None
    if not as_json:
        _show(survey.figures, best)
    chosen = best is not None and best.mode.id != survey.before.id
    if best is not None and chosen and (yes or (not as_json and _agreed(best))):
        modes.set(best.mode)
        _note(f"{best.mode.name} is set, also for later starts. Restart the daemon to use it.")
    elif best is not None and chosen:
        _note(f"{survey.before.name} is set as before.")
    if as_json:
        output.json(
            {
                "model": name,
                "speed": speed,
                "before": survey.before,
                "modes": survey.figures,
                "best": None if best is None else best.mode,
                "current": modes.current,
                "whole": whole,
            }
        )
    if whole and best is None:
        raise _too_slow(survey.figures, speed)
    return 0 if whole else INTERRUPTED


async def _measure(survey: PowerSurvey, seconds: float) -> bool:
    """False when it was interrupted."""
    task = asyncio.create_task(survey.run(seconds, _note), name="survey")
    for ending in ENDINGS:
        asyncio.get_running_loop().add_signal_handler(ending, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


def _ask_to_begin(survey: PowerSurvey, minutes: float, yes: bool) -> None:
    """Raises `NobodyAgreed`."""
    if yes:
        return
    names = ", ".join(one.mode.name for one in survey.figures)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NobodyAgreed(
            f"to measure them, the power modes {names} are set one after the other",
            hint="say --yes, or run it on a terminal and be asked",
        )
    question = (
        f"For about {minutes:g} minutes the power modes {names} are set one after the other, and "
        f"then {survey.before.name} again. All that runs here is as fast as they are. Go on?"
    )
    if not click.confirm(output.harmless(question)):
        raise NobodyAgreed("nothing was measured", hint="edge tune, which changes no mode")


def _agreed(best: ModeFigures) -> bool:
    """Asks on a terminal; elsewhere nobody is there to agree."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm(output.harmless(f"Set the mode {best.mode.name}?"))


def _show(modes: list[ModeFigures], best: ModeFigures | None) -> None:
    table = output.columns("MODE", "1 STREAM", "AT ONCE", "POWER", "TOKENS/J", "")
    for one in modes:
        speeds = [_cell(one.single, "tok/s"), _cell(one.crowd, "tok/s"), _cell(one.watts, "W")]
        per_joule = "-" if one.tokens_per_joule is None else f"{one.tokens_per_joule:.3g}"
        verdict = "best" * (one is best) if one.verdict == "measured" else one.error or one.verdict
        table.add_row(output.harmless(one.mode.name), *speeds, per_joule, output.harmless(verdict))
    output.show(table)


def _cell(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _too_slow(modes: list[ModeFigures], speed: float) -> EdgeError:
    rates = [one.single for one in modes if one.single is not None]
    if not rates:
        return NoPowerModes("no power mode could be measured", hint="edge doctor")
    return TooSlow(
        f"no power mode gives {speed:g} tokens a second to one stream",
        hint=f"the fastest gives {max(rates):.1f}: --speed below that, or a smaller model",
    )


def _note(text: str) -> None:
    click.echo(output.harmless(text), err=True)
