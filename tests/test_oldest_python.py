"""What needs a newer Python than JetPack's 3.10, and what the type checker does not see.

`./scripts/soak python python3.10` is the proof; this holds in every run what it has found.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "edge"


def named(base: ast.expr) -> str:
    """Of a base class, without its module and its parameters."""
    if isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def test_no_generic_tuples() -> None:
    """Python 3.11 was the first to let a NamedTuple or a TypedDict be generic."""
    found = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ClassDef)
        and {"NamedTuple", "TypedDict"} & {named(base) for base in node.bases}
        and "Generic" in {named(base) for base in node.bases}
    ]
    assert found == []
