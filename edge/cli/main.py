"""The `edge` command: its sub-commands, and how every failure reaches the user.

Errors go to stderr as `Error: …` and `Try: …`, never as a traceback.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

import edge
from edge.cli import failure
from edge.cli.failure import FAILED, INTERRUPTED, MISUSED
from edge.errors import ConfigError, EdgeError


class Commands(click.Group):
    """Sub-commands by the module they live in, imported on use: `edge --version` stays fast.

    What a command returns is its exit code; None is 0.
    """

    modules = (
        *("serve", "chat", "models", "bundle", "jobs", "status", "config", "doctor", "bench"),
        *("tune", "keys", "certs", "audit", "backup", "restore", "update"),
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        module = import_module(f"edge.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        extra["standalone_mode"] = False
        try:
            code = super().main(args, *rest, **extra) or 0
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "edge"
            code = _failed(MISUSED, error.format_message(), f"{path} --help")
        except click.ClickException as error:
            code = _failed(FAILED, error.format_message(), None)
        except ConfigError as error:
            code = _failed(MISUSED, error.message, error.hint)
        except EdgeError as error:
            code = _failed(FAILED, error.message, error.hint)
        except click.Abort:
            code = INTERRUPTED
        except OSError as error:
            code = _failed(FAILED, str(error), "check the path, its rights and the free space")
        except Exception as error:
            code = _failed(FAILED, f"a bug in edge: {_where(error)}", "report this line")
        sys.exit(code)


def _failed(code: int, message: str, hint: str | None) -> int:
    failure.report(message, hint)
    return code


def _where(error: Exception) -> str:
    """A bug in one line: what it was and the line of ours or of a library that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


@click.group("edge", cls=Commands)
@click.version_option(edge.__version__, prog_name="edge", message="%(prog)s %(version)s")
def cli() -> None:
    """Language models on this machine, for the machines around it."""


def main() -> NoReturn:
    cli.main(prog_name="edge")
