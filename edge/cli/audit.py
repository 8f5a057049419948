"""`edge audit`: who asked what of this appliance, and whether the log is as it was written."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from edge.audit import read
from edge.audit.event import Event
from edge.audit.folder import Folder
from edge.audit.log import Bounds, opened
from edge.audit.read import Line, Wanted
from edge.audit.seal import read_public
from edge.audit.verify import Verdict
from edge.audit.verify import verify as verify_log
from edge.cli import options, output
from edge.cli.failure import FAILED
from edge.config import reader
from edge.config.place import state_dir
from edge.errors import AuditBroken

COLUMNS = [field.encode_name for field in msgspec.structs.fields(Event)]


class Day(click.ParamType[str]):
    """`2026-11-23`, UTC."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"\d{4}-[01]\d-[0-3]\d", str(value)):
            self.fail(f"{value} is no day such as 2026-11-23", param, ctx)
        return str(value)


_key = click.option("--key", "who", metavar="NAME", help="Only what this key asked.")


@click.group("audit")
def command() -> None:
    """The log of who asked what kind of thing when, and what became of it."""


@command.command()
@click.option("--head", metavar="HEAD", help="A head noted elsewhere, which has to be in the log.")
@click.option(
    "--state",
    "state",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A copy to check: the directory that `audit` is in.",
)
@click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The public key to check it with; by default the one of this machine.",
)
@options.as_json
def verify(head: str | None, state: Path | None, public_key: Path | None, as_json: bool) -> int:
    """Check every byte of the log. Exit code 1 if anything was changed or is missing."""
    folder = Folder(state or state_dir())
    key = folder.public_key() if public_key is None else read_public(public_key)
    verdict = verify_log(folder, key, head)
    if as_json:
        output.json({"intact": verdict.intact, "key": key.fingerprint, **_members(verdict)})
    else:
        _show(verdict, key.fingerprint)
    return 0 if verdict.intact else FAILED


@command.command()
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=20, help="So many; 20.")
@_key
@options.as_json
def show(count: int, who: str | None, as_json: bool) -> None:
    """Show the latest events."""
    events = read.last(Folder(state_dir()), count, Wanted(who=who))
    if as_json:
        output.json(events)
        return
    table = output.columns("TIME", "WHO", "FROM", "WHAT", "MODEL", "STATUS", "TOKENS", "DETAIL")
    for event in events:
        tokens = f"{event.prompt_tokens}+{event.completion_tokens}"
        cells = (event.who, event.origin, event.what, event.answered_by or event.model)
        shown = [output.harmless(cell) for cell in cells]
        detail = output.harmless(event.detail)
        table.add_row(event.time[:19] + "Z", *shown, event.status, tokens, detail)
    output.show(table)


@command.command()
@click.option("--from", "since", metavar="DAY", type=Day(), help="From this day on.")
@click.option("--to", "until", metavar="DAY", type=Day(), help="Up to this day.")
@_key
@click.option("--content", is_flag=True, help="With what was said, where it is kept.")
@click.option("--csv", "as_csv", is_flag=True, help="As a table instead of lines of JSON.")
def export(
    since: str | None, until: str | None, who: str | None, content: bool, as_csv: bool
) -> None:
    """Write events to the standard output, a line for each. Days are UTC's."""
    wanted = Wanted(since or "", until or "", who)
    found = read.lines(Folder(state_dir()), wanted, said=content)
    if not as_csv:
        for line in found:
            click.echo(_json_line(line), nl=False)
        return
    click.echo(_csv_line([*COLUMNS, *(["said"] * content)]), nl=False)
    for line in found:
        members = msgspec.to_builtins(line.event)
        cells = [str(members.get(name, "")) for name in COLUMNS]
        click.echo(_csv_line([*cells, *([line.said.decode()] * content)]), nl=False)


@command.command()
@click.argument("name")
@options.config_file
@options.as_json
def forget(name: str, config_file: str | None, as_json: bool) -> None:
    """Take away what a key has said; that it has asked stays. A running daemon may go on."""
    settings, folder = reader.load(config_file).audit, Folder(state_dir())
    if not folder.files():
        raise AuditBroken(
            f"there is no audit log in {folder.path}", hint="EDGE_STATE_DIR says where it is"
        )
    bounds = Bounds(settings.keep_days, int(settings.max_mb * 1024 * 1024))
    with opened(folder, bounds) as log:
        gone = log.forget(name)
    if as_json:
        output.json({"key": name, "forgotten": gone})
    else:
        click.echo(f"what {name} said in {gone} requests is gone; edge audit verify")


def _members(verdict: Verdict) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(verdict)
    return members


def _show(verdict: Verdict, fingerprint: str) -> None:
    for finding in verdict.findings:
        click.echo(f"{output.harmless(finding.place)}: {output.harmless(finding.what)}")
    state = "intact" if verdict.intact else "NOT AS IT WAS WRITTEN"
    click.echo(
        f"{state}: lines {verdict.first} to {verdict.last}, "
        f"{verdict.from_time[:19]}Z to {verdict.to_time[:19]}Z"
    )
    if verdict.unsigned:
        click.echo(f"{verdict.unsigned} lines at the end are not signed yet")
    if verdict.forgotten:
        click.echo(
            f"the contents of {verdict.forgotten} lines were taken away by edge audit forget"
        )
    click.echo(f"head {verdict.head}")
    click.echo(f"key  {fingerprint}")


def _json_line(line: Line) -> bytes:
    body = msgspec.json.encode(line.event)
    if line.said:
        body = body[:-1] + b',"said":' + line.said + b"}"
    return body + b"\n"


def _csv_line(cells: list[str]) -> str:
    """Cells that a spreadsheet would take for a formula begin with a quote."""
    text = io.StringIO()
    csv.writer(text).writerow([f"'{cell}" if cell[:1] in "=+-@\t" else cell for cell in cells])
    return text.getvalue()
