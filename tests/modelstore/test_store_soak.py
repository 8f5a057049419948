"""Pull, import, bundle install and switch, cut at random: by kills, full disks, lost connections.

`./scripts/soak store` runs this for longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from small_disk import SmallDisk

ROUNDS = int(os.environ.get("SOAK_STORE_ROUNDS") or 25)
SEED = int(os.environ.get("SOAK_STORE_SEED") or 1)


def test_never_half_a_model_and_none_lost(disk: SmallDisk) -> None:
    """After each fault the store checks out, and the next try succeeds."""
    script = Path(__file__).with_name("store_soak.py")
    command = [sys.executable, str(script), str(disk.folder), str(ROUNDS), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)  # noqa: T201 - the soak is run to see this
    assert done.returncode == 0, done.stderr
