"""A process that pulls one model from an address, for tests that kill it: DIRECTORY URL SHA256."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge.modelstore.catalog import UrlSource, Wanted
from edge.modelstore.pace import Pace
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

if __name__ == "__main__":
    directory, url, sha256 = sys.argv[1:]
    wanted = Wanted(name="tiny", source=UrlSource(url, sha256))
    # Slow enough for the other process to kill it in the middle.
    pull(
        ModelStore(Path(directory)),
        wanted,
        lambda done, total: os.write(1, b"%d\n" % done) and None,
        Pace(200_000.0),
    )
