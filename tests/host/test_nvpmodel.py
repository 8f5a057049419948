"""Power modes as nvpmodel's files tell them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.host import nvpmodel
from edge.host.nvpmodel import Mode


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["MAXN", "MODE_15W", "MODE_30W"], "MAXN"),
        (["15W", "MAXN", "MAXN_SUPER", "25W"], "MAXN_SUPER"),
        (
            ["MODE_15W_2CORE", "MODE_20W_2CORE", "MODE_20W_6CORE", "MODE_10W_4CORE"],
            "MODE_20W_6CORE",
        ),
    ],
)
def test_strongest_mode_is_known_by_its_name(names: list[str], best: str) -> None:
    """Not by its number; a Xavier NX has no MAXN at all."""
    found = nvpmodel.strongest([Mode(number, name) for number, name in enumerate(names)])
    assert found is not None
    assert found.name == best


def test_no_mode_is_unknown(tmp_path: Path) -> None:
    """No files; no status yet; a status whose number the file does not have."""
    assert nvpmodel.strongest(nvpmodel.modes(tmp_path)) is None
    assert nvpmodel.current(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=15W >\n")
    assert nvpmodel.current(tmp_path) is None
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0009")
    assert nvpmodel.current(tmp_path) is None
