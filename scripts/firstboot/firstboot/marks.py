"""What of the first boot is done, and outlives power cuts: one file for each step. Owned by
first_boot.py; systemd looks at `finished` and then starts nothing any more."""

from __future__ import annotations

from pathlib import Path

from firstboot import durable

FINISHED = "finished"


class Marks:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        durable.sync_folder(folder.parent)
        self._folder = folder

    def has(self, name: str) -> bool:
        return (self._folder / name).exists()

    def text(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    def clear(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        durable.sync_folder(self._folder)

    def set(self, name: str, text: str = "") -> None:
        durable.write(self._folder / name, text.encode())
