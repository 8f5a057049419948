"""From a server: cut, gone on with, changed meanwhile; and a disk that has no room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from range_server import RangeServer
from software import Box, Factory

from edge.errors import BundleRefused, FetchFailed
from edge.updates import web
from edge.updates.update import Plan, Updater
from edge.updates.web import WebSource


@pytest.fixture
def server(factory: Factory) -> Iterator[RangeServer]:
    """Files of 3 MB: what is written at once is 1 MB."""
    with RangeServer(factory.bundle("2.0.0", ballast=3_000_000).read_bytes()) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSES", (0.0, 0.0))


def fetched(box: Box, url: str) -> Plan:
    updater = box.updater()
    with updater.alone():
        plan = updater.plan(WebSource(url))
        updater.fetch(plan)
    return plan


def starts(server: RangeServer) -> list[int]:
    """Where each answer was to begin."""
    return [int(asked[6:-1]) if asked else 0 for asked in server.asked]


def test_whole(box: Box, server: RangeServer) -> None:
    updater = box.updater()
    seen = list[tuple[int, int]]()
    with updater.alone() as lock:
        plan = updater.plan(WebSource(server.url))
        updater.fetch(plan, lambda done, total: seen.append((done, total)))
        assert updater.install(plan, lock, box.said.append).outcome == "installed"
    assert box.slots.current == "2.0.0"
    assert seen[0] == (0, plan.head.software.size)
    assert seen[-1] == (plan.head.software.size, plan.head.software.size)
    assert len(server.asked) == 2  # the head, then all the rest


def test_goes_on_after_cuts(box: Box, server: RangeServer) -> None:
    """In one command, without asking for anything twice, and for that state of the file alone."""
    server.cuts = [10**9, 1_000_000, 0, 2_500_000, 1]
    plan = fetched(box, server.url)
    assert len(box.staged) == len(plan.head.software.files)
    begin = starts(server)[1]
    assert starts(server)[1:] == [
        begin + gone for gone in (0, 1_000_000, 1_000_000, 3_500_000, 3_500_001)
    ]
    assert server.conditions[1:] == [server.tag] * 5


def test_the_next_command_goes_on(box: Box, server: RangeServer) -> None:
    """In the middle of a file, as far as it came."""
    server.cuts = [10**9, 2_500_000, 0, 0, 0, 0]
    with pytest.raises(FetchFailed, match="was lost"):
        fetched(box, server.url)
    server.asked.clear()
    server.cuts.clear()
    missing = box.updater().plan(WebSource(server.url)).missing_bytes
    plan = fetched(box, server.url)
    assert missing < plan.head.software.size - 1_400_000
    assert starts(server)[-1] > 1_400_000
    assert len(box.staged) == len(plan.head.software.files)


def test_what_an_earlier_try_left_is_not_believed(box: Box, server: RangeServer) -> None:
    """Whole files and halves are damaged, as a power cut may do: they are fetched again."""
    server.cuts = [10**9, 5_500_000, 0, 0, 0, 0]
    with pytest.raises(FetchFailed):
        fetched(box, server.url)
    models = box.base / ".update" / "bundle" / "models"
    whole, half = models / "0.gguf", models / "1.gguf"
    assert whole.stat().st_size == 3_000_000 > half.stat().st_size > 0
    half.write_bytes(bytes(half.stat().st_size))
    server.cuts.clear()
    plan = fetched(box, server.url)
    assert len(box.staged) == len(plan.head.software.files)
    whole.write_bytes(bytes(3_000_000))
    plan = fetched(box, server.url)
    assert whole.read_bytes() != bytes(3_000_000)


def test_a_server_without_ranges(box: Box, factory: Factory) -> None:
    """It sends all of it again, and only the rest is taken."""
    content = factory.bundle("2.0.0").read_bytes()
    with RangeServer(content, ranges=False) as server:
        server.cuts = [10**9, 400_000]
        plan = fetched(box, server.url)
        assert len(box.staged) == len(plan.head.software.files)
        assert len(server.asked) == 3


def test_another_bundle_at_the_same_address(
    box: Box, factory: Factory, server: RangeServer
) -> None:
    """Between two commands: what there was of the first goes. Within one: nothing is mixed."""
    server.cuts = [10**9, 200_000, 0, 0, 0, 0]
    with pytest.raises(FetchFailed):
        fetched(box, server.url)
    updater = box.updater()
    plan = updater.plan(WebSource(server.url))
    server.cuts.clear()
    server.content = factory.bundle("3.0.0").read_bytes()
    with updater.alone(), pytest.raises(BundleRefused, match="not what the manifest says"):
        updater.fetch(plan)
    plan = fetched(box, server.url)
    assert plan.head.software.version == "3.0.0"
    assert {file.path: file.size for file in plan.head.software.files} == {
        path: len(content) for path, content in box.staged.items()
    }


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/edge.tar", "ftp://x/edge.tar", "http://[x"])
def test_an_address_that_is_none(box: Box, url: str) -> None:
    with pytest.raises(FetchFailed):
        fetched(box, url)


def test_names_of_secrets_are_not_kept(server: RangeServer) -> None:
    source = WebSource(server.url.replace("http://", "http://me:secret@") + "?token=secret")
    assert "secret" not in source.name


@pytest.fixture
def small(box: Box) -> Iterator[Box]:
    """Its slots are on a disk of 80 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    kept = box.base.with_name("kept")
    box.base.rename(kept)
    box.base.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(box.base)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    subprocess.run(["cp", "-a", f"{kept}/.", str(box.base)], check=True)
    yield box
    subprocess.run(["umount", "--lazy", str(box.base)], check=True)


def fill(box: Box, leave: int) -> Path:
    filler = box.base / "filler"
    free = os.statvfs(box.base).f_bavail * os.statvfs(box.base).f_frsize
    filler.write_bytes(bytes(free - leave))
    return filler


def test_no_room_is_found_before_anything_is_fetched(small: Box, server: RangeServer) -> None:
    filler = fill(small, 64_000_000)
    with pytest.raises(FetchFailed, match=r"71 MB are needed, 6[34] MB are free"):
        fetched(small, server.url)
    assert not (small.base / ".update").exists()
    filler.unlink()
    fetched(small, server.url)


def test_a_disk_that_fills_up_meanwhile(small: Box, server: RangeServer) -> None:
    """What was fetched gives way to what the appliance has to write."""

    class Filling(Updater):
        filler: Path | None = None

        def fetch_while_filling(self, plan: Plan) -> None:
            def progress(done: int, total: int) -> None:
                if done > 1_500_000 and self.filler is None:
                    self.filler = fill(small, 0)

            self.fetch(plan, progress)

    plain = small.updater()
    updater = Filling(small.slots, plain._trusted, plain._rules)
    plan = updater.plan(WebSource(server.url))
    with updater.alone(), pytest.raises(FetchFailed, match="no room was left"):
        updater.fetch_while_filling(plan)
    assert not (small.base / ".update").exists()
    assert small.slots.current == "1.0.0"
    assert updater.filler is not None
    updater.filler.unlink()
    fetched(small, server.url)
