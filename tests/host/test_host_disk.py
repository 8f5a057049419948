from pathlib import Path

from edge.host import disk


def test_folder_that_is_not_made_yet_counts_where_it_will_be(tmp_path: Path) -> None:
    """The state directory is asked about before the first start makes it."""
    assert disk.free_bytes(tmp_path / "not" / "yet") is not None


def test_unreadable_place_is_unknown(tmp_path: Path) -> None:
    """A file in the middle of the path has no folder below it."""
    (tmp_path / "file").write_text("")
    assert disk.free_bytes(tmp_path / "file" / "folder") is None
