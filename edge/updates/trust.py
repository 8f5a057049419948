"""Whom this machine lets install software: the keys in a folder of root's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edge.bundles.keys import TrustedKeys
from edge.errors import BundleRefused

FOLDER = "update-keys"
"""Beside the configuration, and apart from the keys for models: who has one of these is root."""


def trusted_keys(folder: Path) -> TrustedKeys:
    """Raises `BundleRefused` where there are none, or where others could put some."""
    keys = sorted(folder.glob("*.pem"))
    if not keys:
        raise BundleRefused(
            f"nobody is trusted to sign software: there is no key in {folder}",
            hint=f"install -D -m 0644 KEY.pem {folder}/KEY.pem",
        )
    for path in (folder, *keys):
        facts = path.stat()
        if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BundleRefused(
                f"{path} can be written by others than root",
                hint=f"look at who put what there; then chown -R root:root {folder};"
                f" chmod -R go-w {folder}",
            )
    return TrustedKeys(folder)
