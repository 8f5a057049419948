"""JetPack by what is installed, by its release, or by its generation."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.host import cuda, jetpack


@pytest.mark.parametrize(
    ("line", "l4t", "version"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 99.1, GCID: 1, BOARD: generic", "36.99.1", "6"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None),
        ("Ubuntu", None, None),
    ],
)
def test_release(line: str, l4t: str | None, version: str | None, tmp_path: Path) -> None:
    """Of a release that came after this program the generation is all that is known."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(line + "\n")
    assert (jetpack.l4t(tmp_path), jetpack.version(tmp_path)) == (l4t, version)


def test_damaged_list_of_cuda_is_unknown(tmp_path: Path) -> None:
    """As after a power cut in the middle of an upgrade."""
    (tmp_path / "usr/local/cuda").mkdir(parents=True)
    (tmp_path / "usr/local/cuda/version.json").write_text('{"cuda": {')
    assert cuda.version(tmp_path) is None
