"""`edge jobs`: the queue of the running daemon, as its admin sees it."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click
import msgspec
from rich.text import Text

from edge.cli import options, output
from edge.cli.client import Client
from edge.config import reader
from edge.errors import EdgeError

PAGE = 1000
"""Most jobs that the daemon lists at once."""

_STATES = ["queued", "running", "done", "failed", "expired", "cancelled"]
_STATE_STYLE = {"running": "green", "failed": "bold red", "expired": "yellow"}
_TIMES = ("created", "started", "finished", "deadline", "delivery_due", "delivered")


class Unchanged(EdgeError):
    """The job is in no state that could be changed in this way."""

    code = "unchanged"


class JobLine(msgspec.Struct):
    """What the table shows of a job."""

    id: str
    state: str
    line: str
    kind: str
    door: str
    client: str
    priority: str
    created: float
    attempts: int


class JobList(msgspec.Struct):
    """`GET /admin/v1/jobs`."""

    jobs: list[JobLine]


def _of_one_job(function: options.Decorated) -> options.Decorated:
    """The job's id, and what all commands here have."""
    with_options = options.url(options.config_file(options.as_json(function)))
    return click.argument("job_id", metavar="ID")(with_options)


@click.group("jobs")
def command() -> None:
    """The durable requests of the running daemon."""


@command.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only the jobs in this state.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, PAGE),
    default=100,
    help="How many; 100 if left out.",
)
@options.url
@options.config_file
@options.as_json
def list_(
    state: str | None, limit: int, url: str | None, config_file: str | None, as_json: bool
) -> None:
    """Show the jobs, the latest first."""
    wanted: dict[str, str | int] = {"limit": limit}
    if state is not None:
        wanted["state"] = state
    with _client(url, config_file) as client:
        facts = client.call("GET", "/admin/v1/jobs", **wanted)
        if as_json:
            output.json(facts)
            return
        jobs = client.shaped(facts, JobList).jobs
    table = output.columns(
        *("ID", "STATE", "LINE", "KIND", "DOOR", "CLIENT", "PRIORITY", "AGE", "ATTEMPTS")
    )
    for job in jobs:
        table.add_row(*_row(job))
    output.show(table)


@command.command()
@_of_one_job
def show(job_id: str, url: str | None, config_file: str | None, as_json: bool) -> None:
    """Show one job with its request and its result."""
    with _client(url, config_file) as client:
        facts = client.shaped(client.call("GET", _path(job_id)), dict[str, Any])
    if as_json:
        output.json(facts)
        return
    table = output.columns("", "")
    table.show_header = False
    for key, value in facts.items():
        table.add_row(key, Text(_for_people(key, value)))
    output.show(table)


@command.command()
@_of_one_job
def cancel(job_id: str, url: str | None, config_file: str | None, as_json: bool) -> None:
    """Stop a job that waits or runs."""
    with _client(url, config_file) as client:
        _change(client, job_id, "cancel", "is cancelled", "had ended before", as_json)


@command.command()
@_of_one_job
def retry(job_id: str, url: str | None, config_file: str | None, as_json: bool) -> None:
    """Queue a job that has failed once more."""
    with _client(url, config_file) as client:
        _change(client, job_id, "retry", "is queued again", "has not failed", as_json)


def _client(url: str | None, config_file: str | None) -> Client:
    return Client(url or options.daemon_url(reader.load(config_file)))


def _path(job_id: str) -> str:
    return f"/admin/v1/jobs/{quote(job_id, safe='')}"


def _change(client: Client, job_id: str, verb: str, done: str, refused: str, as_json: bool) -> None:
    """Raises `Unchanged` where the job's state does not allow it."""
    facts = client.shaped(client.call("POST", f"{_path(job_id)}/{verb}"), dict[str, Any])
    if not facts.get("changed"):
        raise Unchanged(
            f"job {job_id} {refused}: it is {output.harmless(str(facts.get('state')))}",
            hint=f"edge jobs show {job_id}",
        )
    if as_json:
        output.json(facts)
    else:
        click.echo(f"job {job_id} {done}")


def _row(job: JobLine) -> list[Text]:
    return [
        Text(output.harmless(job.id)),
        Text(job.state, style=_STATE_STYLE.get(job.state, "")),
        Text(output.harmless(job.line)),
        Text(output.harmless(job.kind)),
        Text(job.door),
        Text(output.harmless(job.client) or "-"),
        Text(job.priority),
        Text(output.duration(max(0.0, time.time() - job.created))),
        Text(str(job.attempts)),
    ]


def _for_people(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in _TIMES:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, dict | list):
        return output.harmless(msgspec.json.encode(value).decode())
    return output.harmless(str(value))
