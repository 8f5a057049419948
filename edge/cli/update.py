"""`edge update`: another version of the software, signed, into the slot that is not in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from edge.cli import options, output, progress
from edge.config import reader
from edge.errors import UpdateFailed
from edge.host import rootslots
from edge.host.root import host_root
from edge.updates.fit import machine
from edge.updates.record import Entry, History
from edge.updates.slots import Slots, here
from edge.updates.source import FileSource
from edge.updates.trust import FOLDER, trusted_keys
from edge.updates.update import Plan, Rules, Updater
from edge.updates.web import WebSource


@click.command("update")
@click.argument("source", required=False)
@click.option("--check", "only_check", is_flag=True, help="Show what would be done; do nothing.")
@click.option("--back", is_flag=True, help="Return to the version before.")
@click.option("--allow-downgrade", is_flag=True, help="Also an older version than the one in use.")
@click.option("--retry", is_flag=True, help="Also one that did not answer here before.")
@options.config_file
@options.as_json
def command(
    source: str | None,
    only_check: bool,
    back: bool,
    allow_downgrade: bool,
    retry: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Install SOURCE, a signed software bundle: an address, a file, or a folder with some.

    Of a folder, such as a mounted stick, the newest that fits is taken. It is tried beside the
    version in use, which comes back by itself if the new one does not answer. Without SOURCE: the
    version in use, and what became of the updates so far. Trusted are the keys in update-keys,
    beside the configuration.
    """
    flags = only_check or allow_downgrade or retry
    if (source is None and flags) or (source is not None and back):
        raise click.UsageError("give an address, a file or a folder; or --back alone")
    slots = here()
    if back:
        _end(_back(slots), slots, as_json)
    elif source is None:
        _show(slots, as_json)
    else:
        rules = Rules(machine(host_root()), rootslots.read(), allow_downgrade, retry)
        keys = (reader.find_file(config_file) or reader.SYSTEM_FILE).absolute().parent / FOLDER
        updater = Updater(slots, trusted_keys(keys), rules)
        if only_check:
            _tell_plan(_plan(updater, source), as_json)
        else:
            _end(_install(updater, source), slots, as_json)


def _plan(updater: Updater, source: str) -> Plan:
    if "://" in source:
        return updater.plan(WebSource(source))
    path = Path(source).absolute()
    return updater.plan_newest(path) if path.is_dir() else updater.plan(FileSource(path))


def _install(updater: Updater, source: str) -> Entry | None:
    """None where there was nothing to do."""
    _need_root()
    with updater.alone() as lock:
        plan = _plan(updater, source)
        if plan.in_use:
            return None
        software = plan.head.software
        click.echo(f"edge {software.version}, signed with {plan.head.key}", err=True)
        with progress.shown(Path(plan.source.name).name) as watch:
            updater.fetch(plan, watch)
        return _watched(lambda: updater.install(plan, lock, _say))


def _back(slots: Slots) -> Entry:
    _need_root()
    updater = Updater(slots, None, Rules(machine(host_root()), rootslots.read()))
    with updater.alone() as lock:
        return _watched(lambda: updater.back(lock, _say))


def _watched(work: Callable[[], Entry]) -> Entry:
    try:
        return work()
    except KeyboardInterrupt:
        click.echo("\nThe installer goes on. How it ends: edge update", err=True)
        raise


def _say(line: str) -> None:
    click.echo(line, err=True)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise UpdateFailed("this changes the system and has to be root", hint="sudo edge update …")


def _end(entry: Entry | None, slots: Slots, as_json: bool) -> None:
    if as_json:
        output.json({"version": slots.current, "update": msgspec.to_builtins(entry)})
    elif entry is None:
        click.echo(f"edge {slots.current} is in use already: nothing to do")
    else:
        kept = f"; {slots.before} is kept: edge update --back" if slots.before else ""
        click.echo(f"edge {slots.current} is in use{kept}")


def _tell_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        output.json(_facts(plan))
        return
    software = plan.head.software
    table = output.columns("", "")
    table.show_header = False
    table.add_row("bundle", f"edge {software.version}, made {software.made_at.isoformat()}")
    table.add_row("from", plan.source.name)
    table.add_row("signed with", plan.head.key)
    table.add_row("in use", plan.before)
    if not plan.in_use:
        fetched = f"{output.size(plan.missing_bytes)} of {output.size(software.size)}"
        table.add_row("to fetch", fetched)
    output.show(table)
    click.echo("It is in use already" if plan.in_use else "It may be installed here")


def _facts(plan: Plan) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(plan.head.software)
    del facts["files"]
    return facts | {
        "source": plan.source.name,
        "key": plan.head.key,
        "in_use": plan.in_use,
        "before": plan.before,
        "size": plan.head.software.size,
        "missing_bytes": plan.missing_bytes,
    }


def _show(slots: Slots, as_json: bool) -> None:
    entries = History(slots).entries()
    if as_json:
        updates = msgspec.to_builtins(entries)
        facts = {"version": slots.current, "before": slots.before, "on_trial": slots.on_trial}
        output.json(facts | {"updates": updates})
        return
    trial = ", on trial" if slots.on_trial else ""
    before = f"; {slots.before} is kept: edge update --back" if slots.before else ""
    click.echo(f"edge {slots.current} is in use{trial}{before}")
    table = output.columns("BEGAN", "FROM", "TO", "OUTCOME", "SOURCE", "")
    for entry in entries:
        table.add_row(
            *(entry.began.isoformat(), entry.before, entry.version, entry.outcome or ""),
            *(output.harmless(entry.source), output.harmless(entry.reason)),
        )
    if entries:
        output.show(table)
