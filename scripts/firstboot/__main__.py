"""What edge-firstboot.service starts, with the Python of the machine: nothing else is there yet.

Exit code 1 where something is left to do; the next boot does it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from firstboot.first_boot import FirstBoot
from firstboot.machine import Machine

if __name__ == "__main__":
    sys.exit(0 if FirstBoot(Machine(Path("/"), Path("/dev/console"))).run() else 1)
