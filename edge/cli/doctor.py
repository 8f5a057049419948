"""`edge doctor`: everything that tends to be wrong, in one report with the cure beside it."""

from __future__ import annotations

import asyncio
import time

import click
from rich.table import Table
from rich.text import Text

from edge.audit.folder import Folder
from edge.cli import checks, options, output
from edge.cli.audit_check import audit_check
from edge.cli.checks import Check
from edge.cli.client import Client, Unreachable
from edge.cli.daemon_status import Status
from edge.cli.failure import FAILED
from edge.cli.machine_checks import board_checks, layers, memory_checks
from edge.cli.queue_checks import queue_checks
from edge.cloud.diagnose import diagnose
from edge.config import reader
from edge.config.place import state_dir
from edge.config.tree import Config
from edge.errors import ConfigError, EdgeError
from edge.host import llama_build
from edge.host.llama_build import LlamaBuild
from edge.host.memory import available_bytes
from edge.host.root import host_root
from edge.modelstore.store import ModelStore
from edge.repository.folder import Repository

_STYLE = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}


@click.command("doctor")
@options.config_file
@click.option("--upstream", metavar="NAME", help="Check the way to this cloud model instead.")
@options.as_json
def command(config_file: str | None, upstream: str | None, as_json: bool) -> int:
    """Check machine, build, configuration, model and daemon.

    Exit code 1 if a check fails. Warnings do not count.
    """
    if upstream is None:
        report = _examine(config_file)
    else:
        report = asyncio.run(_follow(config_file, upstream))
    failed = any(check.status == "fail" for check in report)
    if as_json:
        output.json({"ok": not failed, "checks": report})
    else:
        output.show(_table(report))
    return FAILED if failed else 0


def _examine(config_file: str | None) -> list[Check]:
    settings: Config | EdgeError
    try:
        settings = reader.load(config_file)
    except EdgeError as error:
        settings = error
    # The rest of the machine is worth a look even where the configuration is not.
    usable = Config() if isinstance(settings, EdgeError) else settings
    store = ModelStore(state_dir() / "models")
    build = llama_build.probe()
    healthy, status = _ask_daemon(usable)
    default, root = usable.models.default, host_root()
    loaded = isinstance(status, Status) and any(
        model.name == default and model.state == "ready" for model in status.models
    )
    return [
        checks.python(),
        *board_checks(root),
        checks.compiler(root),
        checks.processor(root),
        checks.back_end(build, usable.engine.backend, root),
        *layers(status, root),
        *([checks.amx(build, root)] if isinstance(build, LlamaBuild) else []),
        checks.configuration(settings, str(reader.find_file(config_file) or "defaults (no file)")),
        checks.model(store, default),
        *([checks.weights(build, store, default)] if isinstance(build, LlamaBuild) else []),
        checks.onnx(Repository(store.directory), status),
        checks.memory(available_bytes(root), store, default, usable.engine, loaded),
        *memory_checks(root, state_dir().resolve()),
        checks.space(state_dir()),
        audit_check(Folder(state_dir()), usable.audit, time.time()),
        checks.port(usable.http.host, usable.http.port, healthy),
        checks.daemon(status),
        *queue_checks(usable.mqtt, status),
    ]


async def _follow(config_file: str | None, name: str) -> list[Check]:
    """The way to a cloud model, step by step."""
    upstreams = reader.load(config_file).upstreams
    if name not in upstreams:
        known = ", ".join(upstreams) or "none"
        raise ConfigError(f"there is no upstream `{name}`; there are: {known}", param="upstreams")
    return [
        Check(found.name, found.status, found.text, found.fix)
        async for found in diagnose(name, upstreams[name])
    ]


def _ask_daemon(settings: Config) -> tuple[bool, Status | EdgeError | None]:
    """Whether `/health` answers, and the status that comes with it."""
    if settings.http.port == 0:
        return False, None
    healthy = False
    try:
        with Client(options.daemon_url(settings)) as client:
            healthy = client.healthy()
            return healthy, client.status()
    except Unreachable:
        return healthy, None
    except EdgeError as error:
        return healthy, error


def _table(report: list[Check]) -> Table:
    table = output.columns("", "", "")
    table.show_header = False
    for check in report:
        table.add_row(
            Text(check.status, style=_STYLE[check.status]),
            check.name,
            output.harmless(check.finding),
        )
        if check.fix:
            table.add_row("", "", Text(f"Try: {check.fix}", style="bold"))
    return table
