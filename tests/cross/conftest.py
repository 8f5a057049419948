"""The programs of scripts/build-wheel, to be imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "lib" / "cross"))
