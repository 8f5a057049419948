"""What `edge doctor` says of the audit log: how long it will last as it grows."""

from __future__ import annotations

import datetime

from edge.audit.folder import Folder
from edge.cli.checks import Check
from edge.cli.output import size
from edge.config.keeping import Audit


def audit_check(folder: Folder, settings: Audit, now: float) -> Check:
    """Whether the log of who asked what can be kept for as long as it should be, as it grows."""
    if not settings.enabled:
        return Check("audit", "ok", "off (audit.enabled)")
    try:
        files = folder.files()
        used = sum(file.bytes for file in files)
    except OSError as error:
        return Check("audit", "warn", f"{folder.path} cannot be read", f"try as root: {error}")
    if not files:
        return Check("audit", "ok", "nothing was logged yet")
    today = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).date()
    days = max(1, (today - datetime.date.fromisoformat(files[0].day)).days + 1)
    finding = f"{days} day{'s' * (days > 1)}, {size(used)}"
    room = settings.max_mb * 1024 * 1024 * 7 / 8
    if used / days * settings.keep_days > room and used > room / 100:
        lasting = max(1, int(room * days / used))
        fix = "raise audit.max_mb, or set audit.content to less"
        return Check(
            "audit",
            "warn",
            f"{finding}: as it grows, audit.max_mb has room for {lasting} of the "
            f"{settings.keep_days} days of audit.keep_days",
            fix,
        )
    return Check("audit", "ok", finding)
