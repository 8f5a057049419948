"""The generated tables in the documentation are those of the code."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_opens_what_is_current() -> None:
    """The section in docs/security.md is what `scripts/opens.py` would write."""
    made = runpy.run_path(str(ROOT / "scripts/opens.py"))
    document = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    assert made["render"]().strip() in document, "run .venv/bin/python scripts/opens.py"


def test_reference_is_current() -> None:
    """docs/reference.md is what `scripts/reference.py` would write."""
    render = runpy.run_path(str(ROOT / "scripts/reference.py"))["render"]
    written = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    assert written == render(), "run .venv/bin/python scripts/reference.py"
