"""Kills an install of a bundle before each of its calls to the file system.

`python bundle_kill_points.py FOLDER`: prints how many points there were; fails at the first machine
that has half of a bundle.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from bundling import Factory, Machine
from kill_points import check, killed

from edge.bundles import record
from edge.modelstore.sweep import sweep


def version(machine: Machine) -> int:
    """Which bundle the machine has, by everything that it brought."""
    sources = {f"900{number}".encode(): number for number in (1, 2)}
    config = sources[machine.config.read_bytes()[13:17]]
    record_of = record.records(machine.store)["line"].manifest
    active = machine.store.get("press").size
    wheels = [path.name for path in (machine.store.directory / "wheels").iterdir()]
    assert record_of.version == config
    assert [one.size for one in record_of.of_kind("model")] == [active]
    assert f"line@{config}" in wheels
    return config


def main(folder: Path) -> int:
    factory = Factory(folder / "factory")
    older, newer = factory.bundle(1), factory.bundle(2)
    template = Machine(folder / "template", factory.key)
    template.install(older)
    point, seen = 0, set()
    while True:
        shutil.copytree(template.folder, folder / "machine")
        machine = Machine(folder / "machine")
        more = killed(partial(machine.install, newer), point)
        check(machine.store)
        machine.store.settle()
        check(machine.store)
        seen.add(version(machine))
        if point % 2:
            sweep(machine.store)
            assert not machine.store.draft.exists()
        machine.install(newer)
        assert version(machine) == 2
        assert machine.store.roll_back("press").version == 1
        sweep(machine.store)
        assert not list(machine.store.directory.glob(".journal*"))
        shutil.rmtree(machine.folder)
        if not more:
            assert seen == {1, 2}
            return point
        point += 1


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))  # noqa: T201
