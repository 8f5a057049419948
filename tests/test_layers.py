"""The import rules of docs/architecture.md: down only, no cycles, libraries where they belong."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edge"

LAYERS = [
    {
        *("edge.types", "edge.tensors", "edge.toolcalls", "edge.errors", "edge.disk"),
        *("edge.turns", "edge.rest", "edge.frames", "edge.vectors", "edge.aside"),
        *("edge.loops", "edge.logs", "edge.metrics", "edge.sandbox", "edge.report_prompt"),
        "edge.config",
    },
    {"edge.repository", "edge.energy"},
    {"edge.engine", "edge.onnx"},
    {"edge.runtime", "edge.modelstore", "edge.store", "edge.host", "edge.cloud", "edge.audit"},
    {
        *("edge.admission", "edge.answers", "edge.sync", "edge.tuning", "edge.fleet"),
        *("edge.switching", "edge.bundles", "edge.access", "edge.backup", "edge.ceiling"),
        "edge.heat",
    },
    {"edge.remote", "edge.routing", "edge.inference", "edge.books", "edge.updates"},
    {"edge.local", "edge.embedders"},
    {"edge.texts"},
    {"edge.service"},
    {"edge.openai", "edge.kserve"},
    {"edge.chains"},
    {"edge.jobs"},
    {"edge.batches"},
    {"edge.api.http", "edge.api.mqtt", "edge.cli"},
    {"edge.startup", "edge.listeners"},
    {"edge.appliance"},
    {"edge.http_server", "edge.notifier"},
    {"edge.reload"},
    {"edge.daemon"},
]
"""Lowest first. A module imports from lower layers, from its own package, and from no sibling."""

WORDS = [
    *("edge.types", "edge.tensors", "edge.toolcalls", "edge.errors", "edge.disk"),
    *("edge.turns", "edge.rest", "edge.frames", "edge.vectors", "edge.aside"),
    *("edge.loops", "edge.logs", "edge.metrics", "edge.sandbox", "edge.report_prompt"),
    "edge.config",
]
"""The words may use each other, in this order only."""

LIBRARIES = {
    "llama_cpp": {
        *("edge.engine.llama", "edge.engine.llama_embedder", "edge.engine.devices"),
        "edge.modelstore.quantize",
    },
    "llguidance": {"edge.engine.grammar"},
    "onnxruntime": {"edge.onnx"},
    "tokenizers": {"edge.onnx"},
    "PIL": {"edge.onnx"},
    "huggingface_hub": {"edge.modelstore"},
    "fastapi": {"edge.api.http", "edge.appliance"},
    "starlette": {"edge.api.http"},
    "uvicorn": {"edge.api.http", "edge.http_server"},
    "python_multipart": {"edge.api.http.upload"},
    "uvloop": {"edge.daemon"},
    "httpx": {
        *("edge.cloud", "edge.sync", "edge.api.http.webhooks"),
        *("edge.cli", "edge.modelstore", "edge.updates.web"),
    },
    "paho": {"edge.api.mqtt"},
    "click": {"edge.cli"},
    "cryptography": {"edge.bundles.keys", "edge.access.certs", "edge.audit.seal"},
    "rich": {"edge.cli"},
    "jinja2": {"edge.sandbox"},
    "prometheus_client": {"edge.metrics"},
    "sqlite3": {"edge.store"},
    "yaml": {
        *("edge.config.reader", "edge.modelstore.catalog", "edge.modelstore.canaries"),
        *("edge.cli.config", "edge.repository.manifest"),
        "edge.tuning.config_edit",
    },
}
"""Where a third-party library may be imported."""

TOP = {("edge.cli.serve", "edge.daemon"), ("edge.__main__", "edge.cli")}
"""The command that starts the daemon is the one import upwards, at the moment of the call."""


@cache
def modules() -> list[str]:
    files = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(("edge", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in names]


@cache
def imports_of(module: str) -> set[str]:
    path = PACKAGE.parent / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    known = set(modules())
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            name = node.module or ""
            parts = {f"{name}.{alias.name}" for alias in node.names}
            found |= (parts & known) or {name}
    return found


def inside(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def layer_of(module: str) -> tuple[int, str] | None:
    for level, packages in enumerate(LAYERS):
        for package in packages:
            if inside(module, {package}):
                return level, package
    return None


@pytest.mark.parametrize("module", [m for m in modules() if layer_of(m)])
def test_imports_go_down(module: str) -> None:
    """A module imports nothing from its own level but its own package, and nothing from above."""
    here = layer_of(module)
    assert here is not None
    level, package = here
    for imported in imports_of(module):
        there = layer_of(imported)
        if there is None or there[1] == package or (module, there[1]) in TOP:
            continue
        if level == there[0] == 0:
            assert WORDS.index(there[1]) < WORDS.index(package), f"{module} imports {imported}"
        else:
            assert there[0] < level, f"{module} imports {imported}"


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_where_they_belong(module: str) -> None:
    """A third-party library is known to the one part that wraps it."""
    for imported in imports_of(module):
        places = LIBRARIES.get(imported.split(".")[0])
        assert places is None or inside(module, places), f"{module} imports {imported}"


def test_every_module_has_a_layer() -> None:
    """A new package has to be given its place before it is used."""
    exempt = {"edge", "edge.api", "edge.__main__"}
    assert [m for m in modules() if layer_of(m) is None and m not in exempt] == []


def test_no_import_cycles() -> None:
    """No module can reach itself through imports."""
    graph = {module: imports_of(module) & set(modules()) for module in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_modules_of_tests_have_names_of_their_own() -> None:
    """They are imported by their bare names: of two, a run of everything finds the wrong one."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("*.py"))
    assert [name for name, count in names.items() if count > 1 and name != "conftest.py"] == []
