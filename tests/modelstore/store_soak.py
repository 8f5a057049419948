"""Pulls, imports, installs bundles and switches, each cut at random and then tried again.

`python store_soak.py FOLDER ROUNDS SEED`: FOLDER is on the disk that is filled. Prints how often
what was done to what, and what came of it; fails at the first store that is not as it should be.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bundle_kill_points import version
from bundling import Factory, Machine
from cutting_server import CuttingServer
from filled_store import add
from kill_points import check
from tinymodel import write_model

from edge.errors import EdgeError
from edge.modelstore import web, workspace
from edge.modelstore.catalog import FileSource, UrlSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.sweep import remove, sweep

NUMBERS = 20_000
"""Weights in a block of the models here: large enough to be cut in the middle."""

DONE, REFUSED, BROKEN, KILLED = "done", "refused", "broken", "killed"


class Soak:
    """One store under all of it. `kept` is served all the time and has to be there to the end."""

    def __init__(self, folder: Path, elsewhere: Path, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.factory = Factory(elsewhere / "factory", numbers=(NUMBERS, NUMBERS + 32))
        self.bundles = [self.factory.bundle(1), self.factory.bundle(2)]
        self.machine = Machine(folder / "machine", self.factory.key)
        self.machine.install(self.bundles[0])
        self.store = self.machine.store
        add(self.store, "kept", NUMBERS + 64)
        for numbers in (256, 512):
            add(self.store, "two", numbers)
        self.file = write_model(elsewhere / "model.gguf", numbers=NUMBERS + 96)
        self.server = CuttingServer(elsewhere, self.file.read_bytes())
        self.took: dict[str, float] = {}
        self.counts = Counter[tuple[str, str, str]]()

    def pull(self) -> None:
        sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        pull(self.store, Wanted(name="pulled", source=UrlSource(self.server.url, sha256)))

    def import_(self) -> None:
        pull(self.store, Wanted(name="imported", source=FileSource(str(self.file))))

    def install(self) -> None:
        self.machine.install(self.bundles[self.next_bundle - 1], allow_older=True)

    def switch(self) -> None:
        self.store.activate("two", self.next_two)

    def round(self) -> None:
        self.next_bundle = 3 - version(self.machine)
        self.next_two = 3 - self.store.known("two").active
        works = [self.pull, self.import_, self.install, self.switch]
        work = self.dice.choices(works, (3, 2, 4, 1))[0]
        faults = [self.kill, self.fill, *([self.cut] if work == self.pull else [])]
        fault = self.dice.choice(faults)
        before = self.good()
        outcome = fault(work)
        self.counts[work.__name__, fault.__name__, outcome] += 1
        self.look(before)
        if self.dice.randrange(2):
            sweep(self.store)
            self.look(before)
        begun = time.monotonic()
        assert self.attempt(work) == DONE, (work, fault)
        self.took[work.__name__] = time.monotonic() - begun
        self.look(before)
        self.reset()

    def look(self, before: set[tuple[str, int, str]]) -> None:
        """Every name means a whole file, nothing good is lost, and of a bundle all or nothing is
        there."""
        check(self.store)
        assert before <= self.good()
        self.store.settle()
        check(self.store)
        assert before <= self.good()
        version(self.machine)

    def good(self) -> set[tuple[str, int, str]]:
        return {
            (name.stem, one.number, one.manifest.sha256)
            for name in self.store.names.glob("*.json")
            for one in self.store.known(name.stem).versions
        }

    def reset(self) -> None:
        """Have something left to do for the next round; bundles and switches go to and fro."""
        waiting = [f"press@{one.version}" for one in self.store.versions("press") if not one.active]
        for name in ("pulled", "imported", *waiting):
            if self.store.find(name):
                remove(self.store, name)

    def kill(self, work: Callable[[], None]) -> str:
        return self.attempt(work, self.dice.uniform(0, 1.2 * self.took.get(work.__name__, 0.02)))

    def cut(self, work: Callable[[], None]) -> str:
        self.server.drop(self.dice.randrange(1, 12))
        outcome = self.attempt(work)
        self.server.drop(0)
        return outcome

    def fill(self, work: Callable[[], None]) -> str:
        """The disk is full after so many bytes more; where there is none, no file may be longer."""
        room = self.dice.randrange(300_000)
        if not os.path.ismount(self.folder):
            return self.attempt(work, largest_file=room)
        filler, disk = self.folder / "filler", os.statvfs(self.folder)
        filler.write_bytes(bytes(max(0, disk.f_bavail * disk.f_bsize - room)))
        outcome = self.attempt(work)
        assert not self.store.journal.exists()  # what has begun to count needs no room
        filler.unlink()
        return outcome

    def attempt(
        self, work: Callable[[], None], seconds: float | None = None, largest_file: int = -1
    ) -> str:
        """Do it in a process of its own, which is killed after that time."""
        child = os.fork()
        if child == 0:
            os._exit(_tried(work, largest_file))
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcome = {0: DONE, 3: REFUSED, -signal.SIGKILL: KILLED}.get(status, BROKEN)
        assert outcome != BROKEN, status
        return outcome


def _tried(work: Callable[[], None], largest_file: int) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, -1))
    try:
        work()
    except (EdgeError, OSError):
        return 3
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(folder: Path, rounds: int, seed: int) -> None:
    web.PAUSES = (0.001, 0.001)  # nobody has to wait for a line to come back
    workspace._MARGIN = -1 << 60  # the disk fills up after it was looked at
    with tempfile.TemporaryDirectory() as elsewhere:
        soak = Soak(folder, Path(elsewhere), seed)
        try:
            with soak.store.hold("kept") as kept:
                content = kept.path.read_bytes()
                for _ in range(rounds):
                    soak.round()
                    assert soak.store.path("kept").read_bytes() == content
        finally:
            soak.server.close()
    for (work, fault, outcome), count in sorted(soak.counts.items()):
        print(f"{count:4} {work.strip('_')}, {fault}: {outcome}")  # noqa: T201
    hit = sum(count for key, count in soak.counts.items() if key[2] != DONE)
    assert hit >= rounds // 4, "too little of it went wrong to prove anything"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
