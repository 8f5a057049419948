"""A Debian for ARM64 in which one command after another runs, emulated.

Each command has a network of its own, with loopback and nothing else, its own processes and its
own mounts, which all end with it: nothing is left on the machine that it ran on.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import debian
import emulator

TREE = Path(__file__).parents[2]
RELEASE = "bookworm"
PACKAGES = (
    "systemd,systemd-sysv,dbus,iproute2,procps,python3,python3-venv,"
    "mosquitto,openssl,strace,fdisk,zstd,ca-certificates,libgomp1"
)
VENV, MODELS, REPORT = Path("/opt/venv"), Path("/models"), Path("/report")
PLACE = Path("/edge")
PATH = f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PROCESSOR = "cortex-a76"
"""The nearest that QEMU has to an Orin's Cortex-A78AE, without the vectors of any length (SVE) of
QEMU's own choice."""

CORE = """\
processor	: {number}
BogoMIPS	: 62.50
Features	: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

"""
"""QEMU shows the file of the machine that it runs on. ONNX Runtime crashes if that is no ARM."""

SET_UP = """
set -eu
disk=$1 layers=$2 kept=$3 tree=$4
shift 4
cd "$layers"
mount -t overlay overlay -o "lowerdir=$disk,upperdir=$layers/upper,workdir=$layers/work" root
cd root
mkdir -p edge
# A layer over the tree keeps what Python compiles, and the tree as it is.
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$kept/upper,workdir=$kept/work" edge
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
mount --bind "$layers/cpuinfo" proc/cpuinfo
while [ "$1" != -- ]; do
    mkdir -p "./$2"
    mount --bind "$1" "./$2"
    shift 2
done
shift
[ -e etc/hosts ] || echo "127.0.0.1 localhost" >etc/hosts
ip link set lo up
# Not in this shell's place: somebody has to be there for processes whose parents have ended.
nice -n 10 chroot . "$@" </dev/null
"""


class Board:
    """Owns the folder with what commands write; the root file system is only read.

    One at a time on a machine, for what Python compiles of the tree is kept in one place.
    """

    def __init__(self, folder: Path, mounts: dict[Path, Path]) -> None:
        """mounts: folders of this machine, and where they are found there."""
        emulator.register()
        self.disk = debian.root(PACKAGES, RELEASE, "arm64")
        self._folder, self._mounts = folder, mounts
        self._kept = debian.kept() / "arm64-tree"
        for layers in (folder, self._kept):
            for part in ("upper", "work", "root"):
                (layers / part).mkdir(parents=True, exist_ok=True)
        cores = range(os.cpu_count() or 1)
        (folder / "cpuinfo").write_text("".join(CORE.format(number=one) for one in cores))

    def run(
        self, *command: str, log: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever that is. log: takes what it says, in place of the result."""
        given = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "QEMU_CPU": PROCESSOR}
        given |= environment
        mounts = [str(one) for pair in self._mounts.items() for one in pair]
        layers = [self.disk, self._folder, self._kept, TREE]
        inside = ["env", "-i", f"--chdir={PLACE}", *(f"{k}={v}" for k, v in given.items())]
        started = [
            *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
            *("sh", "-c", SET_UP, "board", *map(str, layers), *mounts, "--", *inside, *command),
        ]
        with open(log or "/dev/null", "w") as file:
            said = file if log else subprocess.PIPE
            return subprocess.run(started, stdout=said, stderr=subprocess.STDOUT, text=True)
