"""The daemon's side of the audit log: nobody waits for it, and what it could not write it tells."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from daemon_process import poll
from small_disk import SmallDisk

from edge.audit import audit as audit_module
from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.audit.folder import Folder
from edge.audit.refusals import TOLD, WINDOW_SECONDS, Refusals
from edge.audit.verify import verify
from edge.config.keeping import Audit as Settings
from edge.metrics import Metrics


def events(folder: Folder) -> list[dict[str, Any]]:
    lines = [line for file in folder.files() for line in file.path.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


async def until(probe: Callable[[], bool]) -> None:
    await asyncio.to_thread(poll, probe, "what is waited for")


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize(
    ("content", "digest", "kept"),
    [("none", False, False), ("hash", True, False), ("full", True, True)],
)
async def test_content_is_kept_by_policy(
    tmp_path: Path, content: Any, digest: bool, kept: bool
) -> None:
    folder = Folder(tmp_path)
    audit = Audit(folder, Settings(content=content), Metrics())
    audit.open()
    audit.note(Event(what="chat", who="press"), lambda: "a secret")
    await audit.stop()
    chat = next(event for event in events(folder) if event["what"] == "chat")
    assert ("content" in chat) == digest
    everything = b"".join(path.read_bytes() for path in folder.path.iterdir())
    assert (b"a secret" in everything) == kept
    assert verify(folder, folder.public_key()).findings == []


async def test_lines_are_in_order_and_signed_at_the_end(tmp_path: Path) -> None:
    folder, metrics = Folder(tmp_path), Metrics()
    audit = Audit(folder, Settings(), metrics)
    audit.open()
    for number in range(500):
        audit.note(Event(what="chat", id=str(number)))
    await audit.stop()
    found = events(folder)
    assert [event["id"] for event in found if "id" in event] == [str(n) for n in range(500)]
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    verdict = verify(folder, folder.public_key())
    assert (verdict.findings, verdict.unsigned) == ([], 0)
    assert audit.head == verdict.head


async def test_a_full_disk_stops_nobody_and_is_told_later(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits into memory is written when there is room; the rest is a number in the log."""
    monkeypatch.setattr(audit_module, "MOST_NOTED", 50)
    monkeypatch.setattr(audit_module, "RETRY_SECONDS", 0.05)
    if not disk.mounted:
        pytest.skip("needs a file system of its own")
    folder, metrics = Folder(disk.folder), Metrics()
    audit = Audit(folder, Settings(), metrics)
    audit.open()
    await until(lambda: len(events(folder)) == 2)
    filler = disk.folder / "filler"
    fill(filler)
    for number in range(5000):
        audit.note(Event(what="chat", id=str(number), detail="x" * 400))
    lost = metrics.registry.get_sample_value("edge_audit_lost_total")
    assert lost
    assert lost >= 4000
    filler.unlink()
    await until(lambda: any(event["what"] == "lost" for event in events(folder)))
    await audit.stop()
    found = events(folder)
    told = next(event for event in found if event["what"] == "lost")
    written = [event for event in found if event["what"] == "chat"]
    assert int(told["detail"].split()[0]) + len(written) == 5000
    assert verify(folder, folder.public_key()).findings == []


async def test_a_log_that_was_removed_is_begun_anew_and_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for _ in range(2):
        audit = Audit(folder, Settings(), Metrics())
        audit.open()
        await audit.stop()
    assert not [event for event in events(folder) if event["what"] == "break"]
    shutil.rmtree(folder.path)
    audit = Audit(folder, Settings(), Metrics())
    audit.open()
    await audit.stop()
    assert [event["what"] for event in events(folder)][:2] == ["file", "break"]
    assert not verify(folder, folder.public_key()).intact


def test_refusals_of_a_flood_are_a_number() -> None:
    refusals = Refusals()
    assert refusals.untold(0.0) == {}
    told = [refusals.tell("10.0.0.1") for _ in range(1000)]
    assert sum(told) == TOLD
    assert refusals.tell("10.0.0.2")
    assert refusals.untold(WINDOW_SECONDS) == {"10.0.0.1": 1000 - TOLD}
    assert refusals.untold(3 * WINDOW_SECONDS) == {}
    assert refusals.tell("10.0.0.1")


def test_refusals_from_everywhere_are_a_number_too() -> None:
    refusals = Refusals()
    refusals.untold(0.0)
    told = [refusals.tell(f"2001:db8::{number:x}") for number in range(5000)]
    assert sum(told) == 1000
    assert refusals.untold(WINDOW_SECONDS) == {"others": 4000}
