"""systemd/mosquitto-edge.conf for a broker of a test: with users, each with a password."""

from __future__ import annotations

import subprocess
from pathlib import Path

FILES = Path(__file__).parents[2] / "systemd"


def password_of(user: str) -> str:
    return f"secret of {user}"


def production_lines(folder: Path, *users: str) -> list[str]:
    """The real file, but for the listener and the places of the files it names."""
    passwords = folder / "passwords"
    passwords.touch()
    for user in users:
        command = ["mosquitto_passwd", "-b", str(passwords), user, password_of(user)]
        subprocess.run(command, check=True, capture_output=True)
    text = (FILES / "mosquitto-edge.conf").read_text()
    text = text.replace("/etc/mosquitto/edge.passwords", str(passwords))
    text = text.replace("/etc/mosquitto/edge.acl", str(FILES / "mosquitto-edge.acl"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "listener 1883 127.0.0.1" in lines
    return [line for line in lines if not line.startswith("listener")]
