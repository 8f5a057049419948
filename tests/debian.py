"""Root file systems of Debian, which machines for tests are made from; made once and kept.

They are only read: whoever runs something in one lays a folder of its own over it. Making one
takes root and the network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path


def kept() -> Path:
    """The folder of what tests make once for each machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-tests"


def own_release() -> str:
    """The release that this machine has."""
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    assert release
    return release[1]


def root(packages: str, release: str | None = None, architecture: str | None = None) -> Path:
    """A root file system with these packages, and what they depend on, besides the bare system.

    packages: their names, with commas. An architecture other than this machine's takes an emulator
    that is registered with the kernel.
    """
    release = release or own_release()
    known_by = hashlib.sha256(packages.encode()).hexdigest()[:8]
    made = kept() / f"{release}-{architecture or 'own'}-{known_by}"
    if not made.is_dir():
        new = made.with_name(f"{made.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        command = ["debootstrap", "--variant=minbase", f"--include={packages}"]
        command += [f"--arch={architecture}"] if architecture else []
        subprocess.run([*command, release, str(new)], check=True, stdout=subprocess.DEVNULL)
        new.rename(made)
    return made
