"""A thousand damaged model files: refused or accepted, and llama.cpp survives what is accepted."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import families
import pytest
from adapters import write_adapter
from mutants import Mutants
from tinymodel import write_loadable, write_model

from edge.errors import BadModelFile
from edge.modelstore.adapter import check_fit
from edge.modelstore.gguf import read_header

MUTANTS, SEED = 1_000, 20240501
LOADED = 48
"""Accepted ones that are given to llama.cpp, each in a process of its own: 20 ms apiece."""

MOST_MEMORY = 24 << 20
MOST_PROCESSOR_SECONDS = 60


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the check lets pass of all mutants; any exception but its own fails here."""
    folder = tmp_path_factory.mktemp("mutants")
    mutants = Mutants(write_loadable(folder / "whole.gguf")).make(MUTANTS, SEED)
    passed, messages = [], []
    for number, content in enumerate(mutants):
        path = folder / f"{number}.gguf"
        path.write_bytes(content)
        try:
            read_header(path)
        except BadModelFile as error:
            messages.append(error.message.removeprefix(f"{path}: "))
            path.unlink()
        else:
            passed.append(path)
    assert not [text for text in messages if "\n" in text or len(text) > 300 or "/" in text[:1]]
    return passed


def test_most_mutants_are_refused(accepted: list[Path]) -> None:
    """What is left has changed texts, scores or numbers that mean something else and still fit."""
    assert LOADED <= len(accepted) < MUTANTS // 4


def test_llama_cpp_survives_what_is_accepted(accepted: list[Path]) -> None:
    """It loads them or says why not; none ends its process, which would be a worker's."""
    outcomes = loaded(accepted[:: len(accepted) // LOADED][:LOADED])
    for outcome in outcomes:
        assert outcome["said"].endswith("loaded") or "cannot load" in outcome["said"]
    assert sum(outcome["said"].endswith("loaded") for outcome in outcomes) > LOADED // 2


def loaded(chosen: list[Path], base: Path | None = None) -> list[dict[str, Any]]:
    """What came of loading each, none of which ended its process. base: of adapters."""
    folder = Path(__file__).parent
    given = [] if base is None else ["--base", str(base)]
    command = [sys.executable, str(folder / "loading.py"), *given, *map(str, chosen)]
    path = {"PYTHONPATH": str(folder.parents[1]), "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, capture_output=True, env={**os.environ, **path}, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(chosen)
    for outcome in outcomes:
        assert outcome["signal"] == 0, outcome["said"][-500:]
    return outcomes


def test_llama_cpp_survives_damaged_adapters(tmp_path: Path) -> None:
    """Those that fit their model as far as is looked at."""
    base = families.write(tmp_path / "base.gguf", "tinyllama")
    mutants = Mutants(write_adapter(tmp_path / "whole.gguf", base)).make(MUTANTS, SEED)
    accepted = []
    for number, content in enumerate(mutants):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(content)
        try:
            check_fit(path, base)
        except BadModelFile:
            path.unlink()
        else:
            accepted.append(path)
    assert LOADED // 2 <= len(accepted) < MUTANTS // 4
    outcomes = loaded(accepted[:LOADED], base)
    assert sum(outcome["said"].endswith("loaded") for outcome in outcomes) > len(outcomes) // 2


def test_memory_and_time_are_bounded(tmp_path: Path) -> None:
    """Mutants of another kind of file cost the size of a window's first chunks, and no more."""
    path = tmp_path / "mutant.gguf"
    mutants = list(Mutants(write_model(tmp_path / "whole.gguf")).make(100, SEED))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    tracemalloc.start()
    try:
        for content in mutants:
            path.write_bytes(content)
            try:
                read_header(path)
            except BadModelFile:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < MOST_PROCESSOR_SECONDS
