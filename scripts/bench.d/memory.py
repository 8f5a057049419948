"""`./scripts/bench memory`: what the memory guard predicts next to what full workers take.

Each model is loaded by a worker, all slots are filled to the last token, and the most that the
worker held is compared. But for the default model they are files of random weights in the sizes of
real families, written for the purpose and removed again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from appliance import default_model
from full_house import fill, guarded
from full_size import FAMILIES, Kind, randomize, write
from rich.console import Console
from rich.table import Table

from edge.engine.footprint import KvType
from edge.host import cpu
from edge.runtime.guard import MemoryRecord
from edge.types import EngineSettings

CASES: tuple[tuple[str, Kind, int, int, KvType], ...] = (
    ("tinyllama-1.1b", Kind.Q4_0, 2, 512, "f16"),
    ("tinyllama-1.1b", Kind.Q4_K, 1, 512, "q8_0"),
    ("qwen2.5-0.5b", Kind.Q4_0, 2, 512, "f16"),
    ("gemma-3-270m", Kind.Q8_0, 4, 512, "f16"),
    ("gemma-2b", Kind.Q4_0, 1, 512, "f16"),
    ("phi-3-mini", Kind.Q4_0, 1, 512, "q8_0"),
)
DEFAULT: tuple[tuple[int, int, KvType], ...] = (
    (1, 2048, "f16"),
    (8, 1024, "f16"),
    (4, 2048, "q8_0"),
)
COLUMNS = ("weights", "KV", "buffers", "process", "predicted", "measured", "ratio")


async def record(path: Path, settings: EngineSettings) -> MemoryRecord:
    runner = guarded(path, settings)
    task = asyncio.create_task(runner.run())
    try:
        await runner.loaded.wait()
        if runner.error is not None:
            raise runner.error
        return await fill(runner)
    finally:
        await runner.stop()
        await task


def row(name: str, found: MemoryRecord) -> list[str]:
    sizes = (
        found.weights_bytes,
        found.kv_bytes,
        found.buffers_bytes,
        found.process_bytes,
        found.predicted_bytes,
        found.measured_bytes,
    )
    return [name, found.plan, *(f"{size / 1e6:,.0f}" for size in sizes), f"{found.ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--only", help="names that contain this")
    wanted = parser.parse_args().only or ""
    table = Table(title="memory of a worker in MB, predicted and measured (measured : predicted)")
    for column in ("model", "loaded with", *COLUMNS):
        table.add_column(column, justify="left" if len(table.columns) < 2 else "right")
    cores = cpu.usable_cores()
    for slots, context, kv_type in DEFAULT:
        if wanted in "default":
            settings = EngineSettings("cpu", cores, None, slots, context, kv_type, 512, 0)
            found = asyncio.run(record(default_model(), settings))
            table.add_row(*row("the default model", found))
    with tempfile.TemporaryDirectory() as folder:
        for name, kind, slots, context, kv_type in CASES:
            if wanted not in name:
                continue
            path = write(Path(folder) / "m.gguf", FAMILIES[name], kind)
            randomize(path)
            settings = EngineSettings("cpu", cores, None, slots, context, kv_type, 512, 0)
            table.add_row(*row(f"{name} {kind.name}", asyncio.run(record(path, settings))))
            path.unlink()
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    main()
