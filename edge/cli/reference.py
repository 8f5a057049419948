"""The commands as data, for the table in the documentation; the help texts are the only source."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from edge.cli.main import cli


class Option(msgspec.Struct):
    """names: as typed, with what follows: `--max-tokens N`. No option has a default of its own."""

    names: str
    help: str


class Command(msgspec.Struct):
    """path: `edge models pull`. arguments: `NAME`, in brackets where it may be left out."""

    path: str
    arguments: str
    help: str
    options: list[Option]


def reference() -> list[Command]:
    """Every command that does something, in the order of the help pages."""
    return list(_walk(click.Context(cli, info_name="edge")))


def _walk(ctx: click.Context) -> Iterator[Command]:
    command = ctx.command
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            if child is not None:
                yield from _walk(click.Context(child, info_name=name, parent=ctx))
        return
    arguments = [p.make_metavar(ctx) for p in command.params if isinstance(p, click.Argument)]
    options = [_option(p, ctx) for p in command.params if isinstance(p, click.Option)]
    yield Command(ctx.command_path, " ".join(arguments), _text(command.help), options)


def _option(option: click.Option, ctx: click.Context) -> Option:
    names = ", ".join(option.opts)
    value = "" if option.is_flag else f" {option.make_metavar(ctx)}"
    return Option(names + value, _text(option.help))


def _text(help_text: str | None) -> str:
    return " ".join((help_text or "").split())
