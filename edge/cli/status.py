"""`edge status`: what the running daemon serves, and on which hardware."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from edge.ceiling import CLASSES
from edge.cli import options, output
from edge.cli.client import Client
from edge.cli.daemon_status import LimitsStatus, ModelStatus, Status
from edge.cli.host_status import host_lines
from edge.cli.queue_status import broker_lines, queue_lines
from edge.config import reader
from edge.config.live import Reloads
from edge.energy.status import EnergyFacts
from edge.heat.governor import HeatFacts
from edge.heat.levels import CRITICAL_ONLY
from edge.inference.status import OnnxModelStatus, OnnxStatus
from edge.runtime.guard import MemoryRecord
from edge.switching.switch import Progress
from edge.types import UpstreamFacts
from edge.updates.record import Entry

_STATE_STYLE = {
    "ready": "green",
    "failed": "bold red",
    **dict.fromkeys(("restarting", "waiting", "loading", "unloading"), "yellow"),
}
_BREAKER_STYLE = {"closed": "green", "half_open": "yellow", "open": "bold red"}
_LINK_STYLE = {"up": "green", "unknown": "yellow", "down": "bold red"}


@click.command("status")
@options.url
@options.config_file
@options.as_json
def command(url: str | None, config_file: str | None, as_json: bool) -> None:
    """Show what the running daemon serves."""
    with Client(url or options.daemon_url(reader.load(config_file))) as client:
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
    memories = [
        Text(f"{model.name}: {_memory(model.memory)}") for model in status.models if model.memory
    ]
    drafts = [
        Text(f"{model.name}: {model.facts.draft_model} drafts for it")
        for model in status.models
        if model.facts and model.facts.draft_model
    ]
    switches = [
        Text(output.harmless(_switch(model.switch))) for model in status.models if model.switch
    ]
    configuration = _configuration(status.configuration)
    onnx = _onnx(status.onnx) if status.onnx is not None else []
    upstreams = [_upstreams(status.upstreams)] if status.upstreams else []
    output.show(
        f"edge {status.version} on {device}, up {up}, {url}",
        *([] if status.update is None else [_update(status.update)]),
        *([] if status.limits is None else [_daemon(status.limits)]),
        *(host_lines(status.host) if status.host else []),
        *([] if status.energy is None else [_energy(status.energy)]),
        *queue_lines(status.queue),
        *broker_lines(status.broker),
        *([] if status.heat is None else _held_back(status.heat)),
        table,
        *memories,
        *drafts,
        *switches,
        *onnx,
        *upstreams,
        *configuration,
        *errors,
    )


def _energy(energy: EnergyFacts) -> Text:
    """What was used for requests, and by which models for each token."""
    line = f"energy: {energy.requests:.0f} J for requests, {energy.unshared:.0f} J beside them"
    for name, model in energy.models.items():
        if model.joules_per_token is not None:
            line += f"; {name} {model.joules_per_token:.3g} J a token"
    return Text(output.harmless(line))


def _configuration(reloads: Reloads) -> list[Text]:
    """What is written in the file and not in force."""
    lines = []
    if reloads.needs_restart:
        keys = output.harmless(", ".join(reloads.needs_restart))
        lines.append(Text(f"configuration: needs a restart: {keys}", style="yellow"))
    if reloads.error:
        refused = f"configuration: refused, nothing has changed: {output.harmless(reloads.error)}"
        lines.append(Text(refused, style="red"))
    return lines


def _update(entry: Entry) -> Text:
    line = f"last update: {entry.before} to {entry.version}, {entry.began.isoformat()}:"
    line += f" {entry.outcome}" + (f": {entry.reason}" if entry.reason else "")
    return Text(output.harmless(line), style="" if entry.outcome == "installed" else "yellow")


def _daemon(limits: LimitsStatus) -> Text:
    """The daemon's own memory and connections, and what it refuses for lack of memory."""
    memory = limits.memory
    line = f"daemon: {output.size(memory.used_bytes)} of {output.size(memory.limit_bytes)}, "
    line += f"{limits.connections} of {limits.max_connections} connections"
    if not memory.pressure:
        return Text(line)
    refused = ", ".join(CLASSES[: memory.pressure])
    return Text(f"{line}; short of memory, {refused} requests are refused", style="bold red")


def _held_back(heat: HeatFacts) -> list[Text]:
    """What waits for heat or power, and why; nothing where nothing does."""
    if not heat.number:
        return []
    style = "bold yellow" if heat.number < CRITICAL_ONLY else "bold red"
    return [Text(output.harmless(f"{heat.level}: {heat.text}"), style=style)]


def _onnx(status: OnnxStatus) -> list[Table | Text]:
    """The models in folders, and the process that they share."""
    if not status.models:
        return []
    table = output.columns(
        *("ONNX MODEL", "TASK", "STATE", "VERSIONS", "PROVIDER", "BATCH", "USERS", "MEMORY")
    )
    for model in status.models:
        table.add_row(*_onnx_row(model))
    worker, lines = status.worker, list[Table | Text]([table])
    if worker.pid is not None:
        taken = f"took {output.size(worker.taken_bytes)} so far"
        line = f"predicted to take {output.size(worker.promised_bytes)}, {taken}"
        restarts = f", {worker.restarts} restarts" if worker.restarts else ""
        lines.append(Text(f"onnxruntime {worker.onnxruntime}{restarts}: {line}"))
    lines += [
        Text(f"{model.name}: {output.harmless(model.error)}", style="red")
        for model in status.models
        if model.error
    ]
    return lines


def _onnx_row(model: OnnxModelStatus) -> list[Text]:
    facts = [loaded.facts for loaded in model.loaded]
    providers = sorted({one.provider.upper() for one in facts})
    on_gpu = bool(providers) and providers != ["CPU"]
    loaded = {one.version for one in facts}
    versions = [f"{one}*" if one in loaded else str(one) for one in model.versions]
    return [
        Text(model.name),
        Text(model.task or "-"),
        Text(model.state, style=_STATE_STYLE.get(model.state, "")),
        Text(", ".join(versions) or "-"),
        Text(", ".join(providers) or "-", style="bold green" if on_gpu else "bold yellow"),
        Text(", ".join(str(one.max_batch) for one in facts) or "-"),
        Text(str(sum(loaded.users for loaded in model.loaded)) if facts else "-"),
        Text(output.size(sum(one.memory_bytes for one in facts)) if facts else "-"),
    ]


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
    state = model.state + (", pinned" if model.pinned else "")
    state += f", {model.restarts} restarts" if model.restarts else ""
    stats = model.stats or {}
    memory = stats.get("memory_bytes") or (model.facts.memory_bytes if model.facts else None)
    kv_total = stats.get("kv_total_tokens")
    return [
        Text(model.name),
        Text(state, style=_STATE_STYLE.get(model.state, "")),
        Text(model.back_end, style="bold green" if model.on_gpu else "bold yellow"),
        Text(f"{stats['running']} of {stats['slots']}" if stats else "-"),
        Text(str(stats.get("waiting", 0) + model.waiting) if stats or model.waiting else "-"),
        Text(str(model.facts.context) if model.facts else "-"),
        Text(f"{stats['kv_used_tokens'] / kv_total:.0%}" if kv_total else "-"),
        Text(_prefixes(stats)),
        Text(output.size(memory) if memory else "-"),
    ]


def _switch(progress: Progress) -> str:
    line = f"{progress.name}: from version {progress.previous} to {progress.version}: "
    line += progress.state.replace("_", " ")
    return f"{line}: {progress.reason}" if progress.reason else line


def _memory(record: MemoryRecord) -> str:
    """The prediction of the load next to the most that it has taken so far."""
    taken = output.size(record.measured_bytes) if record.measured_bytes else "unknown"
    line = f"predicted to take {output.size(record.predicted_bytes)} at most, took {taken} so far"
    return output.harmless(f"{line}; {record.note}" if record.note else line)


def _prefixes(stats: dict[str, int]) -> str:
    """How many computed prefixes are kept beside the slots, and in how much memory."""
    kept = stats.get("kept_prefixes")
    return f"{kept}, {output.size(stats['kept_bytes'])}" if kept else "-"
