"""Files that refuse, vanish or say nothing."""

from __future__ import annotations

import os
from pathlib import Path

from edge.host import kernel


def test_sensor_without_power_is_unknown(tmp_path: Path) -> None:
    """EAGAIN, as the zones of parts that are off answer: a pipe that is open and empty does too."""
    os.mkfifo(tmp_path / "temp")
    writer = os.open(tmp_path / "temp", os.O_RDWR | os.O_NONBLOCK)
    try:
        assert kernel.text(tmp_path / "temp") is None
        assert kernel.number(tmp_path / "temp") is None
    finally:
        os.close(writer)


def test_what_is_no_file_is_unknown(tmp_path: Path) -> None:
    """A folder, a name that is not there, and a link to nowhere: EISDIR and ENOENT."""
    (tmp_path / "link").symlink_to("nowhere")
    assert [kernel.text(path) for path in (tmp_path, tmp_path / "gone", tmp_path / "link")] == [
        None
    ] * 3


def test_io_error_is_unknown() -> None:
    """EIO, from memory that is not mapped: what a chip that left the bus answers with."""
    assert kernel.text(Path("/proc/self/mem")) is None


def test_text_longer_than_one_read(tmp_path: Path) -> None:
    """As the list of packages."""
    (tmp_path / "long").write_text("x" * 200_000 + "\n")
    assert kernel.text(tmp_path / "long") == "x" * 200_000


def test_numbers_in_names_count(tmp_path: Path) -> None:
    """Zone 10 is behind zone 2."""
    for number in (10, 2, 1):
        (tmp_path / f"zone{number}").touch()
    assert [one.name for one in kernel.numbered(tmp_path, "zone*")] == ["zone1", "zone2", "zone10"]
