"""Programs for 64-bit ARM on a processor that is none: QEMU's, as the kernel calls it."""

from __future__ import annotations

import subprocess
from pathlib import Path

REGISTRY = Path("/proc/sys/fs/binfmt_misc")
INTERPRETER = "/usr/bin/qemu-aarch64-static"
MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
"""The head of an ELF file: 64 bits, little-endian, a program or a library, for machine 0xb7."""


def register() -> None:
    """Have the kernel run programs for ARM64 with QEMU, in containers and changed roots too: flag F
    opens the interpreter now, so that it has not to be there. As root.

    Distributions register it without F, or not at all where systemd does not run.
    """
    if not (REGISTRY / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(REGISTRY)], check=True)
    if not any(map(_will_do, REGISTRY.iterdir())):
        rule = f":edge-aarch64:M::{MAGIC}:{MASK}:{INTERPRETER}:OCF"
        (REGISTRY / "register").write_text(rule)


def _will_do(rule: Path) -> bool:
    if rule.name in ("register", "status"):
        return False
    lines = rule.read_text().splitlines()
    flags = next((ln.partition(":")[2] for ln in lines if ln.startswith("flags:")), "")
    magic = MAGIC.replace(r"\x", "")
    return "enabled" in lines and "F" in flags and f"magic {magic}" in lines
