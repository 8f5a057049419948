"""`edge status`: what the running daemon serves, and on which hardware."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from edge import config_reader
from edge.cli import options, output
from edge.cli.client import Client, ModelStatus, Status
from edge.types import UpstreamFacts

_STATE_STYLE = {"ready": "green", "failed": "bold red", "restarting": "yellow", "loading": "yellow"}
_BREAKER_STYLE = {"closed": "green", "half_open": "yellow", "open": "bold red"}
_LINK_STYLE = {"up": "green", "unknown": "yellow", "down": "bold red"}


@click.command("status")
@options.url
@options.config_file
@options.as_json
def command(url: str | None, config_file: str | None, as_json: bool) -> None:
    """Show what the running daemon serves."""
    with Client(url or options.daemon_url(config_reader.load(config_file))) as client:
        if as_json:
            output.json(client.facts())
        else:
            _show(client.status(), client.url)


def _show(status: Status, url: str) -> None:
    device = (
        f"{status.device.id} ({status.device.site})" if status.device.site else status.device.id
    )
    up = output.duration(status.uptime_seconds)
    table = output.columns(
        *("MODEL", "STATE", "BACK END", "BUSY", "WAITING", "CONTEXT", "KV", "PREFIXES", "MEMORY")
    )
    for model in status.models:
        table.add_row(*_row(model))
    errors = [
        Text(f"{model.name}: {output.harmless(model.error)}", style="red")
        for model in status.models
        if model.error
    ]
    upstreams = [_upstreams(status.upstreams)] if status.upstreams else []
    output.show(f"edge {status.version} on {device}, up {up}, {url}", table, *upstreams, *errors)


def _upstreams(upstreams: list[UpstreamFacts]) -> Table:
    table = output.columns("UPSTREAM", "MODEL", "BREAKER", "LINK", "FIRST TOKEN", "")
    for one in upstreams:
        latency = "-" if one.latency_seconds is None else f"{one.latency_seconds:.2f} s"
        table.add_row(
            Text(one.name),
            Text(one.model),
            Text(one.state.replace("_", "-"), style=_BREAKER_STYLE[one.state]),
            Text(one.link, style=_LINK_STYLE[one.link]),
            Text(latency),
            Text(output.harmless(one.reason or "")),
        )
    return table


def _row(model: ModelStatus) -> list[Text]:
    state = model.state + (f", {model.restarts} restarts" if model.restarts else "")
    stats = model.stats or {}
    memory = stats.get("memory_bytes") or (model.facts.memory_bytes if model.facts else None)
    kv_total = stats.get("kv_total_tokens")
    return [
        Text(model.name),
        Text(state, style=_STATE_STYLE.get(model.state, "")),
        Text(model.back_end, style="bold green" if model.on_gpu else "bold yellow"),
        Text(f"{stats['running']} of {stats['slots']}" if stats else "-"),
        Text(str(stats["waiting"]) if stats else "-"),
        Text(str(model.facts.context) if model.facts else "-"),
        Text(f"{stats['kv_used_tokens'] / kv_total:.0%}" if kv_total else "-"),
        Text(_prefixes(stats)),
        Text(output.size(memory) if memory else "-"),
    ]


def _prefixes(stats: dict[str, int]) -> str:
    """How many computed prefixes are kept beside the slots, and in how much memory."""
    kept = stats.get("kept_prefixes")
    return f"{kept}, {output.size(stats['kept_bytes'])}" if kept else "-"
