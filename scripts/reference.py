"""Writes docs/reference.md from the code: `.venv/bin/python scripts/reference.py`."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

import edge.cli.reference
from edge.access.gate import Gate
from edge.access.keyring import Keyring
from edge.api.http.app import make_app
from edge.api.http.errors import STATUS, refusal
from edge.batches.batcher import Batcher
from edge.books import Books
from edge.chains.chains import Chains
from edge.config.models import Engine, Switching
from edge.config.table import reference
from edge.config.tree import Config
from edge.fleet.exchange import Exchange
from edge.fleet.fleet import Fleet
from edge.fleet.installed import InstalledModels
from edge.fleet.rules import Rules
from edge.inference.models import onnx_models
from edge.jobs.backlog import BacklogReader
from edge.jobs.dispatcher import Dispatcher
from edge.jobs.kinds import Kinds
from edge.metrics import Metrics
from edge.modelstore.store import ModelStore
from edge.service import Service
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.files import Files
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.switching.switches import Switches

HEAD = """\
# Reference

Made from the code by `.venv/bin/python scripts/reference.py`; a test compares the two.
"""


def table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def configuration() -> str:
    rows = [[f"`{row.key}`", row.type, f"`{row.default}`", row.description] for row in reference()]
    return (
        "## Configuration\n\n"
        "`EDGE_SECTION__KEY` in the environment overrides a key, for example "
        "`EDGE_HTTP__PORT=8081`.\n\n" + table(["key", "type", "default", "meaning"], rows)
    )


def commands() -> str:
    rows = []
    for command in edge.cli.reference.reference():
        options = "<br>".join(f"`{o.names}` {o.help}" for o in command.options)
        rows.append(
            [f"`{command.path} {command.arguments}`".replace(" `", "`"), command.help, options]
        )
    return "## Commands\n\n" + table(["command", "what it does", "options"], rows)


def application() -> FastAPI:
    """With all its routes, and nothing behind them."""
    made = Metrics()
    fleet = Fleet(InstalledModels(Path("never read"), Engine(), made), Rules(), made, lambda: None)
    onnx = onnx_models(Config(), Path("never read"), made)
    service = Service(Config(), fleet, onnx, Books(made))
    database, bounds = Database(Path("never opened"), ()), Bounds(1, 1)
    ledger = Jobs(database, bounds, result_ttl=1)
    chains = Chains(service)
    dispatcher = Dispatcher(ledger, Kinds(service, chains), Metrics(), 1)
    files = Files(database, Path(), max_bytes=1, ttl=1)
    batches = Batches(database, bounds, ttl=1)
    gate = Gate(Keyring(Path()), required=())
    batcher = Batcher(batches, files, dispatcher, service, refusal, gate.owner)
    switches = Switches(ModelStore(Path()), Exchange(fleet), Switching())
    backlog = BacklogReader(ledger, Deliveries(database), batches, bounds, int)
    return make_app(service, chains, dispatcher, files, batcher, switches, backlog, gate)


def routes() -> str:
    document = application().openapi()
    rows = [
        [f"`{method.upper()} {path}`", operation.get("description", "")]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    errors = [[f"`{code}`", str(status)] for code, status in STATUS.items()]
    return (
        "## HTTP routes\n\n"
        + table(["route", "what it does"], rows)
        + "\n\n## Error codes\n\nEvery other code is a 500.\n\n"
        + table(["code", "status"], errors)
    )


def metrics() -> str:
    rows = []
    for family in Metrics().registry.collect():
        # A counter's samples carry a suffix that its family's name leaves out.
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append([f"`{name}`", family.type, family.documentation])
    return "## Metrics\n\n" + table(["metric", "type", "meaning"], rows)


def render() -> str:
    return "\n\n".join([HEAD.rstrip(), configuration(), commands(), routes(), metrics()]) + "\n"


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs/reference.md"
    target.write_text(render(), encoding="utf-8")
