"""How far a download or a copy is, for people and for logs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from edge.cli import output
from edge.modelstore.workspace import Progress as Watcher


@contextmanager
def shown(name: str) -> Iterator[Watcher]:
    """A bar on a terminal, else a line for each tenth, as logs and CI can bear."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Says how far a pull is whenever another tenth of it is there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tenths = -1

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // total if total else 0
        if tenths > self.tenths:
            self.tenths = tenths
            of = f"{output.size(done)} of {output.size(total)}"
            click.echo(f"{self.name}: {of} ({10 * tenths} %)", err=True)
