"""How all processes of the appliance write their log: to stderr, one line for each event.

Where that is the journal, lines begin with a priority (sd-daemon(3)) in place of its name, and
systemd adds the time. Set up once in each process, before its first line.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""syslog(3)'s numbers."""


def set_up(*, level_names: bool = True) -> None:
    """level_names: INFO and so on before each line, where it is not the journal."""
    handler = logging.StreamHandler(sys.stderr)
    if to_journal():
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        level = "%(levelname)s " if level_names else ""
        handler.setFormatter(logging.Formatter(f"{level}%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def to_journal(environ: Mapping[str, str] = os.environ, fd: int = 2) -> bool:
    """Whether what is written to a descriptor gets to the journal, by `$JOURNAL_STREAM`: a
    variable that a child inherits whose stderr goes elsewhere."""
    try:
        facts = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


class JournalFormatter(logging.Formatter):
    """The lines of a traceback become one: the journal would make an event of each."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()
        text = " | ".join(line.strip() for line in lines)
        return f"<{PRIORITIES.get(record.levelno, 6)}>{text}"
