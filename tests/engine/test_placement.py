"""Where a model is, by what llama.cpp said: lines of boards, cards and of this machine."""

from __future__ import annotations

from edge.engine.placement import Placement

ORIN = """\
load_tensors: offloading 28 repeating layers to GPU
load_tensors: offloaded 29/29 layers to GPU
load_tensors:        CUDA0 model buffer size =  1050.44 MiB
load_tensors:    CUDA_Host model buffer size =   166.92 MiB
llama_kv_cache:      CUDA0 KV buffer size =   448.00 MiB
resolve_fused_ops: Flash Attention enabled
sched_reserve:      CUDA0 compute buffer size =   300.75 MiB
sched_reserve:  CUDA_Host compute buffer size =    16.01 MiB
sched_reserve: graph: nodes = 987, splits = 2, input objects = 4, input tensors = 6
"""


def told(text: str) -> Placement:
    placement = Placement()
    for line in text.splitlines():
        placement.hear(line)
    return placement


def test_all_on_the_gpu() -> None:
    """What the driver has pinned in the main memory for it is none of its buffers."""
    placed = told(ORIN).told()
    assert (placed.layers, placed.of, placed.device, placed.cpu) == (29, 29, "CUDA0", [])
    assert placed.device_bytes == int(1050.44 * 2**20) + (448 * 2**20) + int(300.75 * 2**20)
    assert placed.flash_attention


def test_layers_that_no_device_took() -> None:
    """CUDA did not start, and llama.cpp tells of 81 layers all the same."""
    lines = (
        "offloaded 81/81 layers to GPU\nload_tensors: CPU_Mapped model buffer size = 47628.36 MiB"
    )
    placed = told(lines).told()
    assert (placed.layers, placed.device, placed.device_bytes, placed.cpu) == (0, "", 0, [])
    assert placed.copied_bytes == 0


def test_some_of_the_layers() -> None:
    lines = ORIN.replace("offloaded 29/29", "offloaded 12/29").replace(
        "splits = 2", "splits = 5 / 3"
    )
    assert told(lines).told().cpu == ["17 of 29 layers"]


def test_cache_in_the_main_memory() -> None:
    """All layers are on the GPU, which has to wait for it."""
    lines = ORIN.replace("CUDA0 KV", "CPU KV")
    assert told(lines).told().cpu == ["the KV cache"]


def test_parts_that_the_gpu_cannot_compute() -> None:
    """An operation without a kernel cuts each step. The second figure is of single tokens."""
    lines = ORIN.replace("splits = 2,", "splits = 3 / 58,")
    lines = lines.replace(
        "Flash Attention enabled", "Flash Attention not supported, set to disabled"
    )
    placed = told(lines).told()
    assert placed.cpu == ["parts of each step, which is cut into 58"]
    assert not placed.flash_attention


def test_next_model_begins_anew() -> None:
    placement = told(ORIN)
    placement.begin()
    assert placement.told().device_bytes == 0
    assert not placement.told().flash_attention
