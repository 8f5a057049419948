"""Layers, caches and refusals of a device that is really another one: what is otherwise told from
lines of boards is here llama.cpp's own doing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import second_device
from full_house import guarded, ready

from edge.errors import ModelLoadFailed
from edge.host.llama_build import LlamaBuild, probe
from edge.runtime.runner import ModelRunner
from edge.types import EngineSettings

pytestmark = pytest.mark.skipif(
    not os.environ.get("SOAK_DEVICE"),
    reason="compiles a back end of llama.cpp: ./scripts/soak device",
)

WHOLE = EngineSettings("auto", 1, None, 2, 256, "f16", 128, 0, draft="none")
MB = 1_000_000


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return second_device.build(tmp_path_factory.mktemp("device"))


@pytest.fixture
def there(library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers that are started have the device at $SECOND_DEVICE."""
    monkeypatch.setenv("PYTHONPATH", f"{library.parent / 'path'}:{Path(__file__).parents[2]}")
    return library


@asynccontextmanager
async def loaded(
    path: Path, settings: EngineSettings, *, card: bool = True
) -> AsyncIterator[ModelRunner]:
    runner = guarded(path, settings)
    assert runner.guard is not None
    runner.guard.card = card
    async with ready(runner):
        yield runner


@pytest.mark.parametrize(
    ("settings", "layers", "left"),
    [
        (WHOLE, 31, []),
        (msgspec.structs.replace(WHOLE, kv_type="q8_0"), 31, []),
        (msgspec.structs.replace(WHOLE, gpu_layers=12), 12, ["19 of 31 layers"]),
        (msgspec.structs.replace(WHOLE, gpu_layers=0), 0, []),
        (msgspec.structs.replace(WHOLE, backend="cpu"), 0, []),
    ],
)
async def test_layers_that_are_really_there(
    settings: EngineSettings,
    layers: int,
    left: list[str],
    there: Path,
    default_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with second_device.serving(there) as address:
        monkeypatch.setenv("SECOND_DEVICE", address)
        build = probe()
        assert isinstance(build, LlamaBuild)
        assert [gpu.back_end for gpu in build.gpus] == ["RPC"]
        assert build.back_end == "GPU (not CUDA)"
        async with loaded(default_model_path, settings) as runner:
            facts = runner.facts
            assert facts is not None, runner.error
            assert (facts.gpu_layers, facts.layers, facts.left_on_cpu) == (layers, 31, left)
            assert (facts.backend, bool(facts.device)) == (
                ("rpc", True) if layers else ("cpu", False)
            )


async def test_cuda_is_not_another_device(
    there: Path, default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers are on a GPU, and it is none of CUDA's."""
    with second_device.serving(there) as address:
        monkeypatch.setenv("SECOND_DEVICE", address)
        cuda = msgspec.structs.replace(WHOLE, backend="cuda")
        async with loaded(default_model_path, cuda) as runner:
            assert runner.state == "failed"
            assert isinstance(runner.error, ModelLoadFailed)
            assert "by CUDA" in runner.error.message


async def test_a_device_that_has_not_the_memory(
    there: Path, default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights do not fit, and half of them do: seen in the facts, the note and the counter."""
    with second_device.serving(there, memory=92 * MB) as address:
        monkeypatch.setenv("SECOND_DEVICE", address)
        async with loaded(default_model_path, WHOLE) as runner:
            assert runner.state == "ready", runner.error
            assert runner.facts is not None
            assert (runner.facts.gpu_layers, runner.facts.left_on_cpu) == (15, ["16 of 31 layers"])
            assert runner.memory is not None
            assert runner.memory.note == "15 of 31 layers on the GPU: a load died for memory"


async def test_where_layers_may_not_give_way(
    there: Path, default_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Jetson: it is an error with llama.cpp's reason, and nothing computes on the CPU."""
    with second_device.serving(there, memory=92 * MB) as address:
        monkeypatch.setenv("SECOND_DEVICE", address)
        async with loaded(default_model_path, WHOLE, card=False) as runner:
            assert runner.state == "failed"
            assert runner.error is not None
            assert runner.error.code == "out_of_memory"
            assert "RPC0" in runner.error.message
