"""What the daemon tells of updates that others made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from software import DOES_NOT_ANSWER, Box, Factory

from edge.audit import read
from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.audit.folder import Folder
from edge.audit.read import Wanted
from edge.config.keeping import Audit as Settings
from edge.errors import UpdateFailed
from edge.metrics import Metrics
from edge.updates.record import History, begun
from edge.updates.watch import UpdateWatch


def noted(box: Box, state: Path, looks: int = 2) -> list[Event]:
    """What a daemon that starts, looks some times and stops writes into its audit log."""

    async def run() -> UpdateWatch:
        audit = Audit(Folder(state), Settings(), Metrics())
        audit.open()
        watch = UpdateWatch(box.slots, audit, state)
        for _ in range(looks):
            await watch.look()
        await audit.stop()
        return watch

    watch = asyncio.run(run())
    assert watch.last == History(box.slots).last()
    return [one for one in read.last(Folder(state), 100, Wanted()) if one.what == "update"]


def test_each_update_is_noted_once(box: Box, factory: Factory, tmp_path: Path) -> None:
    """Over restarts, whichever version runs; also one that failed."""
    state = tmp_path / "state"
    state.mkdir()
    assert noted(box, state) == []
    box.update(factory.bundle("2.0.1"))
    events = noted(box, state)
    assert [(one.status, one.detail) for one in events] == [
        ("ok", f"edge 1.0.0 to 2.0.1: installed, signed with {factory.key.fingerprint}")
    ]
    with pytest.raises(UpdateFailed):
        box.update(factory.bundle("2.0.2", DOES_NOT_ANSWER))
    (_, failed) = noted(box, state)
    assert failed.status == "update_failed"
    assert failed.detail.endswith("edge 2.0.2 does not answer")
    assert failed.origin.endswith("edge-2.0.2.tar")
    assert len(noted(box, state)) == 2


def test_what_has_not_ended_is_not_noted(box: Box, tmp_path: Path) -> None:
    """While it is installed, and on trial after a cut. Then what became of it is noted."""
    updater = box.updater()
    with updater.alone():
        entry = msgspec.structs.replace(begun("1.0.0", "2.0.0", "here"), identity="12345678")
        updater.history.begin(entry)
        assert noted(box, tmp_path) == []
        (box.base / "2.0.0").mkdir()
        (box.base / "2.0.0" / ".identity").write_text("12345678\n")
        (box.base / "current").unlink()
        (box.base / "current").symlink_to("2.0.0")
        assert noted(box, tmp_path) == []  # it has answered, and its installer asks once more
    (box.base / ".trial").write_text("1.0.0\n")
    assert noted(box, tmp_path) == []
    (box.base / ".trial").unlink()
    assert [one.detail for one in noted(box, tmp_path)] == ["edge 1.0.0 to 2.0.0: installed"]


def test_a_record_that_is_damaged_stops_nobody(box: Box, tmp_path: Path) -> None:
    (box.base / "updates.json").write_text("{")
    assert asyncio.run(UpdateWatch(box.slots, None, tmp_path).look()) is None
    assert asyncio.run(UpdateWatch(None, None, tmp_path).look()) is None
