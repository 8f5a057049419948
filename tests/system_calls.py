"""What a running daemon does to its disk and to its connections, and in which order, by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon_process import PATIENCE

CALLS = "trace=pwrite64,fsync,fdatasync,write,send,sendto,sendmsg,writev"


@contextmanager
def traced(pid: int, file: Path) -> Iterator[list[str]]:
    """The calls of all threads while the block runs; the list is filled when it is left."""
    strace = shutil.which("strace")
    assert strace, "strace is missing: ./scripts/test installs it"
    tracer = subprocess.Popen(
        [strace, "-f", "-y", "-x", "-s", "64", "-o", str(file), "-e", CALLS, "-p", str(pid)],
        stderr=subprocess.PIPE,
    )
    lines: list[str] = []
    try:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        yield lines
    finally:
        tracer.terminate()
        tracer.communicate(timeout=PATIENCE)
        lines += file.read_text(errors="replace").splitlines()


def assert_synced_before(lines: list[str], sent: str) -> None:
    """The ledger's log was written, then synced, and only then came the line with `sent`."""
    told = next(at for at, line in enumerate(lines) if re.search(sent, line))
    written = [at for at, line in enumerate(lines) if re.search(r"pwrite64\(\d+<.*-wal>", line)]
    synced = [at for at, line in enumerate(lines) if re.search(r"f(data)?sync\(\d+<.*-wal>", line)]
    assert written[0] < synced[0] < told
