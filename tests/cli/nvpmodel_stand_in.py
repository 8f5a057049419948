"""A program in the place of NVIDIA's `nvpmodel`, for a recorded board: there is no other here.

It does what the real one was seen to do: writes its status file, and with it what the board draws;
asks whether to reboot for a mode that wants that, and leaves everything as it is without an answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """\
#!{python} -S
import os, sys
reboot, milliamperes = {reboot}, {milliamperes}
board = os.environ["EDGE_HOST_ROOT"]
assert sys.argv[1] == "-m" and len(sys.argv) == 3, sys.argv
mode = int(sys.argv[2])

def path(name):
    return os.path.join(board, name)

def write(name, text, how="w"):
    with open(path(name), how) as file:
        file.write(text)

write("calls", sys.argv[2] + "\\n", "a")
if os.path.exists(path("broken-" + sys.argv[2])):
    print("NVPM ERROR: Error writing 2 to /sys/devices/gpu.0/fbp_pg_mask: 19")
    print("NVPM ERROR: failed to set power mode!")
    sys.exit(255)
if mode in reboot:
    print("NVPM WARN: Golden image context is already created")
    print("NVPM WARN: Reboot required for changing to this power mode: %d" % mode)
    print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
    if sys.stdin.readline().strip().lower() == "yes":
        write("rebooted", "")
    print("NVPM ERROR: bad input!")
    print("NVPM ERROR: optMask is 1, no request for power mode")
    sys.exit(234)
write("var/lib/nvpmodel/status", "pmode:%04d fmode:quiet\\n" % mode)
write("sys/class/hwmon/hwmon3/curr1_input", str(milliamperes[mode]) + "\\n")
"""

MILLIAMPERES = {0: 60_000, 1: 100, 2: 30_000, 3: 45_000}
"""Of a rail of about 20 V, by the mode's number. Much further apart than any board's: all modes are
as fast here as the machine just is, and that must not decide which is the best."""


def install(folder: Path, reboot: tuple[int, ...] = ()) -> Path:
    """Returns the folder, for the PATH. reboot: modes that want one."""
    folder.mkdir()
    program = folder / "nvpmodel"
    program.write_text(
        PROGRAM.format(python=sys.executable, reboot=reboot, milliamperes=MILLIAMPERES)
    )
    program.chmod(0o755)
    return folder
