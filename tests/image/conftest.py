"""The scripts that make images, and what runs at the first boot: it is no part of the package."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS / "firstboot"))
