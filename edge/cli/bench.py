"""`edge bench`: how fast a server is, this daemon or any other that speaks OpenAI's API.

Ctrl-C ends the measurement and shows what there is; a second one ends the command.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edge.cli import bench_options, options, output
from edge.cli.bench_options import Plan
from edge.cli.failure import FAILED, INTERRUPTED
from edge.cli.load import chart, report
from edge.cli.load.report import Report
from edge.cli.load.runner import Run, carry_out
from edge.cli.load.server import Server, connect
from edge.cli.load.workloads import questions, warm_up
from edge.config import reader


def _key(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        found = Path(value).read_bytes().strip()
    except OSError as error:
        raise click.BadParameter(f"{value}: {error.strerror}") from None
    # Anything else would fail deep inside the HTTP library, with the key in its message.
    if not found or not all(0x21 <= byte <= 0x7E for byte in found):
        raise click.BadParameter(f"{value} has to hold one line of ASCII")
    return found.decode("ascii")


def _picture(ctx: click.Context, option: click.Parameter, value: str | None) -> Path | None:
    """Checked now: it would be a pity after the measurement."""
    if value is None:
        return None
    if Path(value).is_dir() or not Path(value).absolute().parent.is_dir():
        raise click.BadParameter(f"{value} cannot be written: a folder, or in none")
    return Path(value)


@click.command("bench")
@click.option(
    "--url",
    metavar="URL",
    callback=options.checked_url,
    help="Server to measure: an address, or OpenAI's base URL such as http://host:8000/v1; "
    "by default the daemon of the configuration.",
)
@click.option("--model", metavar="NAME", help="Model to ask; else the server's default or first.")
@click.option(
    "--api-key-file", "key", metavar="FILE", callback=_key, help="File with the key for the server."
)
@bench_options.plan
@click.option("--svg", metavar="FILE", callback=_picture, help="Draw the figures into this file.")
@options.config_file
@options.as_json
def command(
    plan: Plan,
    url: str | None,
    model: str | None,
    key: str | None,
    svg: Path | None,
    config_file: str | None,
    as_json: bool,
) -> int:
    """Measure a server that speaks OpenAI's API.

    Exit code 1 if an answer failed or was cut. Ctrl-C shows what was measured so far.
    """
    address = url or options.daemon_url(reader.load(config_file))
    found = Report(address, model, None, "unknown", plan.workload, plan.seed)
    asyncio.run(_until_ctrl_c(plan, found, key))
    if as_json:
        output.json(report.facts(found))
    elif found.measured or not found.interrupted:
        _show(found)
    if svg is not None and found.measured:
        svg.write_text(chart.draw(found), encoding="utf-8")
    if found.interrupted:
        return INTERRUPTED
    return FAILED if found.failed else 0


async def _until_ctrl_c(plan: Plan, found: Report, key: str | None) -> None:
    work = asyncio.ensure_future(_measure(plan, found, key))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        found.interrupted = True
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _measure(plan: Plan, found: Report, key: str | None) -> None:
    """One run after the other; `found` has what is done, however this ends."""
    cached = plan.workload == "repeat"
    async with connect(found.url, found.model, key, cached) as server:
        await server.recognise()
        found.model, found.edge = server.model, server.version
        if server.version is not None:
            found.answer_cache = "left on" if cached else "off"
        for number, run in enumerate(plan.runs, 1):
            await _one_run(plan, number, run, server, found)


async def _one_run(plan: Plan, number: int, run: Run, server: Server, found: Report) -> None:
    load = f"clients {run.clients}" if run.rate is None else f"rate {run.rate:g}"
    count = plan.requests_of(run)
    # Own questions for each run, or the later ones would find theirs in the server's memory.
    seed = f"{plan.seed} {plan.workload} {load}"
    asked = questions(plan.workload, seed, count, plan.tokens)
    if sys.stderr.isatty():
        click.echo(f"{load}: {count} requests…", err=True)
    warm = await server.ask(warm_up(), 0.0, lambda: 0.0)
    if warm.error is not None:
        found.warm_up[number] = f"{warm.error}: {warm.message}"
    found.runs.append(run)
    await carry_out(run, server, asked, random.Random(f"{seed} arrivals"))
    found.model = found.model or next(_names(run), None)


def _names(run: Run) -> Iterator[str]:
    return (answer.model for answer in run.answers if answer.model)


def _show(found: Report) -> None:
    remarks = [f"- {note}" for note in report.notes(found)]
    output.show(report.head(found), report.table(found), *remarks)
