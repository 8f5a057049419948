"""A maker of bundles and a machine that takes them, for the tests of both."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from filled_store import add

from edge.bundles.install import Installer, Outcome
from edge.bundles.keys import SigningKey, TrustedKeys, make_key
from edge.bundles.make import Contents, make
from edge.modelstore.store import ModelStore

CATALOG = """\
models:
  - {name: far, title: Far, licence: MIT, size_mb: 1, context: 8, memory_mb: 2,
     source: {kind: file, path: /media/far.gguf}}
"""


class Factory:
    """Where bundles are made: `press@1` and `press@2` are in its store, other files beside it."""

    def __init__(self, folder: Path, numbers: tuple[int, int] = (256, 512)) -> None:
        """numbers: sizes of the two models, in weights."""
        folder.mkdir()
        self.folder = folder
        self.store = ModelStore(folder / "models")
        for count in numbers:
            add(self.store, "press", count)
        self.key = make_key(folder / "key")
        (folder / "catalog.yaml").write_text(CATALOG)

    def config(self, port: int) -> Path:
        path = self.folder / f"{port}.yaml"
        path.write_text(f"http: {{port: {port}}}\nmodels: {{default: press}}\n")
        return path

    def wheel(self, name: str = "tool-1.0-py3-none-any.whl") -> Path:
        path = self.folder / name
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(zipfile.ZipInfo("tool.py"), "x = 1\n")
        return path

    def bundle(self, version: int, key: SigningKey | None = None, **contents: Any) -> Path:
        """One with all kinds of files, or with those that are named."""
        path = self.folder / f"line-{version}.bundle"
        if not contents:
            contents = {
                "active": (f"press@{version}",),
                "catalog": self.folder / "catalog.yaml",
                "config": self.config(9000 + version),
                "wheels": (self.wheel(),),
            }
        make(path, Contents("line", version, **contents), key or self.key, self.store)
        return path


class Machine:
    """Where they are installed. It trusts whom it is told to."""

    def __init__(self, folder: Path, *trusted: SigningKey) -> None:
        self.folder = folder
        self.store = ModelStore(folder / "state" / "models")
        self.config = folder / "edge.yaml"
        self.keys = folder / "trusted-keys.d"
        self.keys.mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(trusted):
            (self.keys / f"{number}.pem").write_text(key.public_pem())

    def install(self, bundle: Path, allow_older: bool = False) -> Outcome:
        return self.installer.install(bundle, allow_older)

    @property
    def installer(self) -> Installer:
        return Installer(self.store, self.config, TrustedKeys(self.keys))

    def files(self) -> dict[str, bytes]:
        """All that is there, but for locks, which are empty."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
        }
