"""A process that changes a store without end, for tests that kill it.

`python store_child.py DIRECTORY SOURCES SEED`: imports the files of SOURCES under a few names,
activates, removes and sweeps, at random. What is said about a name is printed when it is done.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path

from edge.errors import ModelInUse, ModelNotFound, PullFailed
from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.modelstore.sweep import remove, sweep

NAMES = ("a", "b", "c")


def turn(store: ModelStore, sources: list[Path], dice: random.Random) -> None:
    name = dice.choice(NAMES)
    # Others change the same store: what is gone, or in their hands, is no fault.
    with contextlib.suppress(ModelNotFound, ModelInUse, PullFailed):
        what = dice.randrange(8)
        if what < 4:
            pull(store, Wanted(name=name, source=FileSource(str(dice.choice(sources)))))
        elif what == 4:
            store.activate(
                name, dice.choice(store.versions(name) or store.installed()).version or 0
            )
        elif what == 5:
            remove(store, name if dice.random() < 0.3 else f"{name}@{dice.randrange(1, 9)}")
        elif what == 6:
            sweep(store)
        else:
            with store.hold(name) as model, open(model.path, "rb") as file:
                file.read()
        os.write(1, b".\n")


def main() -> None:
    store, sources = ModelStore(Path(sys.argv[1])), sorted(Path(sys.argv[2]).glob("*.gguf"))
    # Kept: it is served by somebody else all the time, and must be there to the end.
    pull(store, Wanted(name="kept", source=FileSource(str(sources[0]))))
    os.write(1, b"kept\n")
    dice = random.Random(sys.argv[3])
    while True:
        turn(store, sources, dice)


if __name__ == "__main__":
    main()
