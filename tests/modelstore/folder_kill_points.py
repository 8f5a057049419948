"""Kills a pull of a folder, and its removal, before each call to the file system.

`python folder_kill_points.py FOLDER`: a models directory with a pull that has fetched all its
files. Prints how many points there were; fails at the first broken state.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from kill_points import killed
from test_folders import CONTENTS, MANIFEST, contents, entry

from edge.errors import ModelNotFound
from edge.modelstore import folders
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.modelstore.sweep import remove


def check(store: ModelStore) -> bool:
    """Whether the folder is there; if so, all of it is."""
    there = [found.name for found in folders.installed(store)]
    assert there in ([], ["vectors"]), there
    if not there:
        return False
    found = contents(store.directory / "vectors")
    assert found.pop("installed.json")
    assert found == {**CONTENTS, "model.yaml": MANIFEST.encode()}, sorted(found)
    return True


def bring(store: ModelStore) -> None:
    pull(store, entry())


def take_away(store: ModelStore) -> None:
    remove(store, "vectors")


def points(directory: Path) -> int:
    """All of a pull, and all of a removal."""
    begun, count = directory.with_name("begun"), 0
    shutil.copytree(directory, begun)
    installed = directory.with_name("installed")
    shutil.copytree(directory, installed)
    bring(ModelStore(installed))
    for start, work in ((begun, bring), (installed, take_away)):
        point = 0
        while True:
            shutil.rmtree(directory)
            shutil.copytree(start, directory)
            store = ModelStore(directory)
            if not killed(partial(work, store), point):
                break
            there = check(store)
            if work is bring:
                bring(store)
                assert check(store)
            elif there:
                take_away(store)
                assert not check(store)
            else:
                try:
                    take_away(store)
                except ModelNotFound:
                    pass
                else:
                    raise AssertionError("it was gone and there")
            point += 1
        count += point
    return count


if __name__ == "__main__":
    print(points(Path(sys.argv[1])))  # noqa: T201
