"""Options of `edge keys` that belong together, each group as the one thing that it makes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, get_args

import click

from edge.access.key import Door, Quota, Scope
from edge.types import Priority

DAY = 86_400.0
_UNITS = {"m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}

Command = Callable[..., None]


class Duration(click.ParamType[float]):
    """`90d`, `12h`, `30m`, `4w`, as seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,6})([mhdw])", str(value))
        if found is None:
            self.fail(f"{value} is no time such as 30m, 12h, 90d or 4w", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


expires = click.option(
    "--expires", metavar="TIME", type=Duration(), help="Valid for so long, such as 90d or 12h."
)


def scope(command: Command) -> Command:
    """What the key is for, as `scope`."""

    @_several("--door", "doors", type=click.Choice(get_args(Door)), help="Only it.")
    @_several("--model", "models", metavar="NAME", help="Only these; `*` for any.")
    @_several(
        "--priority",
        "priorities",
        type=click.Choice(get_args(Priority)),
        help="Only requests of it.",
    )
    @click.option("--local-only", is_flag=True, help="Its requests never leave the appliance.")
    @click.option("--admin", is_flag=True, help="Also for /admin and /metrics.")
    @functools.wraps(command)
    def gathered(
        doors: Any, models: Any, priorities: Any, local_only: bool, admin: bool, **others: Any
    ) -> None:
        made = Scope(
            list(doors) or None, list(models) or None, list(priorities) or None, local_only, admin
        )
        command(scope=made, **others)

    return gathered


def quota(command: Command) -> Command:
    """How much it may ask for, as `quota`."""

    @_number("--requests-per-minute", "At most.")
    @_number("--concurrent", "Requests at once.")
    @_number("--tokens-per-day", "Of both kinds.")
    @functools.wraps(command)
    def gathered(
        requests_per_minute: int | None,
        concurrent: int | None,
        tokens_per_day: int | None,
        **others: Any,
    ) -> None:
        command(quota=Quota(requests_per_minute, concurrent, tokens_per_day), **others)

    return gathered


def _several(*names: str, **options: Any) -> Callable[[Command], Command]:
    return click.option(*names, multiple=True, **options)


def _number(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(name, type=click.IntRange(min=1), metavar="N", help=text)
