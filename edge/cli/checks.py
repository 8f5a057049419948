"""What `edge doctor` looks at: each function turns facts into one finding and its cure.

Nothing here changes the machine or raises for what it finds. What is unknown is a warning: it is
neither fine nor broken.
"""

from __future__ import annotations

import platform
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Literal

import msgspec

from edge.cli.advice import advice
from edge.cli.daemon_status import Status
from edge.cli.output import size
from edge.config.models import Engine, Models
from edge.config.tree import Config
from edge.errors import BadModelFile, EdgeError, ModelNotFound, OutOfMemory
from edge.fleet.installed import guard_of
from edge.host import board, cpu, cuda, disk, gpu
from edge.host.llama_build import BrokenBuild, LlamaBuild
from edge.modelstore import gguf
from edge.modelstore.catalog import load_catalog
from edge.modelstore.store import ModelStore
from edge.repository.folder import Repository
from edge.tuning.kernels import packed_by_build

OLDEST_PYTHON = (3, 10)
DISK_LOW, DISK_FULL = 2_000_000_000, 200_000_000

ROOT = Path("/")

_CUDA_ARCHITECTURES = {"tegra194": "72", "tegra234": "87", "tegra264": "110"}
"""By NVIDIA's chip: Xavier, Orin, Thor (110 in CUDA 13)."""


class Check(msgspec.Struct):
    """One line of the report. fix: what to do about it, None where nothing has to be done."""

    name: str
    status: Literal["ok", "warn", "fail"]
    finding: str
    fix: str | None = None


def python() -> Check:
    here = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        return Check("python", "ok", here)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Check("python", "fail", here, f"install Python {oldest} or newer, then ./scripts/run")


def compiler(root: Path = ROOT) -> Check:
    """llama.cpp is compiled on the machine, so upgrades need a compiler, for CUDA nvcc too."""
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        fix = "apt install build-essential cmake"
        return Check("compiler", "warn", "none; upgrades of llama.cpp need one", fix)
    if not (board.is_jetson(root) or gpu.has_nvidia_gpu(root)):
        return Check("compiler", "ok", found)
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=str(root / "usr/local/cuda/bin"))
    if nvcc is None:
        fix = "install the CUDA toolkit (on a Jetson: apt install nvidia-jetpack)"
        return Check("compiler", "warn", f"{found}, but no nvcc for the GPU", fix)
    return Check("compiler", "ok", f"{found}, {nvcc}")


def processor(root: Path = ROOT) -> Check:
    """Which of the instruction sets that llama.cpp has kernels for are there."""
    features = cpu.features(root)
    cores = cpu.usable_cores(root)
    name = f"{cpu.model(root) or 'unknown model'}, {cores} usable core{'s' * (cores > 1)}"
    if features is None:
        return Check("cpu", "warn", f"{name}, features unknown", "is /proc mounted?")
    arm = "asimd" in features
    known = (
        {"asimddp": "dotprod", "i8mm": "i8mm", "sve": "SVE"}
        if arm
        else {"avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI"}
    )
    there = [label for feature, label in known.items() if feature in features]
    finding = f"{name}, {' '.join(there) or 'no vector extensions that matter'}"
    if ("asimddp" if arm else "avx2") in features:
        return Check("cpu", "ok", finding)
    needed = "dotprod" if arm else "AVX2"
    return Check("cpu", "warn", finding, f"without {needed} answers are slow: use a small model")


def back_end(build: LlamaBuild | BrokenBuild, configured: str, root: Path = ROOT) -> Check:
    """The classic failure on boards: a build without CUDA that works, and is slow, silently."""
    if isinstance(build, BrokenBuild):
        fix = "build it again for this machine: ./scripts/run"
        return Check("llama.cpp", "fail", f"cannot be used: {build.why}", fix)
    kernels = " ".join(re.findall(r"(\w+) = 1", build.system_info))
    finding = f"{build.back_end}, llama-cpp-python {build.version}, {kernels or 'plain C'}"
    if build.idle_cuda is not None:
        return Check(
            "llama.cpp", "fail", f"{build.idle_cuda}; {finding}", _idle_cuda_fix(build, root)
        )
    if not build.gpu_offload and (board.is_jetson(root) or gpu.has_nvidia_gpu(root)):
        fix = (
            f"{_cuda_toolkit(root)}build again: CMAKE_ARGS='{_cuda_options(root)}' "
            f"pip install --force-reinstall --no-cache-dir llama-cpp-python=={build.version}"
        )
        return Check(
            "llama.cpp", "fail", f"CPU only, though there is an NVIDIA GPU: {finding}", fix
        )
    if configured == "cuda" and build.back_end != "CUDA":
        fix = "set engine.backend to auto, or install a build with CUDA"
        return Check("llama.cpp", "fail", f"engine.backend is cuda, but this is {finding}", fix)
    if configured == "cpu" and build.gpu_offload:
        fix = "set engine.backend to auto"
        return Check("llama.cpp", "warn", f"engine.backend is cpu, the GPU is idle: {finding}", fix)
    there = ", ".join(f"{one.description} ({size(one.free)} free)" for one in build.gpus)
    return Check("llama.cpp", "ok", f"{finding}, on {there}" if there else finding)


def _idle_cuda_fix(build: LlamaBuild, root: Path) -> str:
    """To build it again would not help."""
    if build.unloadable is not None:
        return (
            "install the CUDA libraries that it was built with (on a Jetson: "
            "apt install nvidia-jetpack)"
        )
    if board.is_jetson(root):
        return (
            "let the user have /dev/nvmap and /dev/nvhost-*: groups video and render; in a "
            "container: --runtime nvidia"
        )
    return (
        "look at `nvidia-smi`: driver and card have to be there, and no older than the CUDA build"
    )


def _cuda_toolkit(root: Path) -> str:
    """What has to be there before. The PATH of services lacks the toolkit's folder."""
    missing = board.is_jetson(root) and cuda.version(root) is None
    first = "apt install nvidia-jetpack, then " if missing else ""
    return f"{first}put nvcc on the PATH (/usr/local/cuda/bin) and "


def _cuda_options(root: Path) -> str:
    """With the one architecture of the chip, where it is known: all of them take an hour."""
    architecture = _CUDA_ARCHITECTURES.get(board.chip(root) or "")
    option = f" -DCMAKE_CUDA_ARCHITECTURES={architecture}" if architecture else ""
    # The 32 GB of addresses that its pool would reserve are refused on Orin
    # (https://github.com/ggml-org/llama.cpp/issues/29142).
    pool = " -DGGML_CUDA_NO_VMM=ON" if board.is_jetson(root) else ""
    return f"-DGGML_CUDA=ON{option}{pool}"


def amx(build: LlamaBuild, root: Path = ROOT) -> Check:
    """Prompts are several times as fast with these kernels; not every compiler's work, though
    (https://github.com/ggml-org/llama.cpp/pull/26954), so other builds may be without them."""
    if "AMX_INT8 = 1" in build.system_info:
        return Check("amx", "ok", "compiled in")
    if "amx_int8" not in (cpu.features(root) or ()):
        return Check("amx", "ok", "not of this processor")
    return Check(
        "amx",
        "warn",
        "this processor has it, and it is not compiled in: prompts take several times as long",
        "build again: CXXFLAGS=-fno-dse pip install --force-reinstall --no-cache-dir "
        f"llama-cpp-python=={build.version}",
    )


def memory(
    available: int | None, store: ModelStore, name: str, engine: Engine, loaded: bool
) -> Check:
    """Whether the default model fits beside all that runs now; a loaded one does."""
    there = f"{size(available)} available"
    if loaded:
        return Check("memory", "ok", f"{there}, {name} is loaded")
    watch = "watch the first start with `edge status`"
    try:
        guard = guard_of(name, gguf.read_header(store.path(name)), engine, lambda: available)
    except EdgeError:
        return _memory_for_catalog(store, available, name, watch)
    if guard is None:
        return Check("memory", "ok", f"{there}, {name} goes to the graphics card")
    try:
        _, record = guard.fit()
    except OutOfMemory as error:
        return Check("memory", "fail", error.message, error.hint)
    finding = f"{there}, {name} takes {size(record.predicted_bytes)} at most, {record.plan}"
    if available is None:
        return Check("memory", "warn", finding, watch)
    return Check("memory", "ok", f"{finding}: {record.note}" if record.note else finding)


def _memory_for_catalog(store: ModelStore, available: int | None, name: str, watch: str) -> Check:
    """The same for a model that is not installed: what the catalog says that it needs."""
    entry = load_catalog(added=store.catalogs).get(name)
    need = None if entry is None else entry.memory_mb * 1_000_000
    finding = f"{size(available)} available, {name} needs {size(need)}"
    if available is None or need is None:
        return Check("memory", "warn", finding, watch)
    if available < need:
        return Check("memory", "fail", finding, "stop other programs, or choose a smaller model")
    return Check("memory", "ok", finding)


def space(state: Path) -> Check:
    free = disk.free_bytes(state)
    finding = f"{size(free)} free for {state}"
    fix = "make room, or point EDGE_STATE_DIR to a larger disk"
    if free is None:
        return Check("disk", "warn", finding, f"check the rights of {state}")
    if free < DISK_LOW:
        return Check("disk", "fail" if free < DISK_FULL else "warn", finding, fix)
    return Check("disk", "ok", finding)


def port(host: str, number: int, daemon_answers: bool) -> Check:
    """Free, or held by our own daemon."""
    where = f"{host}:{number}"
    if daemon_answers:
        return Check("port", "ok", f"{where} is held by the daemon: /health answers")
    if number == 0:
        return Check("port", "ok", "the daemon takes a free one")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, number), family=family).close()
    except OSError as error:
        fix = "stop what holds it, or set http.host and http.port to what this machine has"
        return Check("port", "fail", f"{where}: {error.strerror or error}", fix)
    return Check("port", "ok", f"{where} is free")


def model(store: ModelStore, name: str) -> Check:
    try:
        path = store.path(name)
        header = gguf.read_header(path)
    except ModelNotFound as error:
        if name == Models().default:
            return Check("model", "warn", error.message, f"edge models pull {name}, or edge serve")
        return Check("model", "fail", error.message, error.hint)
    except BadModelFile as error:
        return Check("model", "fail", error.message, error.hint)
    what = f"{header.architecture} {header.file_type or ''}".strip()
    if not header.has_chat_template:
        what += ", without a chat template"
    return Check("model", "ok", f"{path}, {what}, {size(header.size_bytes)}")


def onnx(folders: Repository, status: Status | EdgeError | None) -> Check:
    """The models in folders: whether they can be read, and what became of those that were asked."""
    names = folders.names()
    if not names:
        return Check("onnx", "ok", f"no model folders in {folders.directory}")
    problems = []
    for name in names:
        try:
            folders.read(name)
        except EdgeError as error:
            problems.append((error.message, error.hint))
    if isinstance(status, Status) and status.onnx is not None:
        known = [problem for problem, _ in problems]
        failed = [one.error for one in status.onnx.models if one.error and one.error not in known]
        problems += [(error, None) for error in failed]
    if problems:
        what = "; ".join(problem for problem, _ in problems)
        fix = next((hint for _, hint in problems if hint), "docs/onnx.md")
        return Check("onnx", "warn", what, fix)
    return Check("onnx", "ok", f"{len(names)} in {folders.directory}: {', '.join(names)}")


def weights(build: LlamaBuild, store: ModelStore, name: str) -> Check:
    """Whether the model may be faster with other weights; that is an offer, and no fault."""
    try:
        model = store.get(name)
        kind = gguf.read_header(model.path).file_type
    except EdgeError:
        return Check("weights", "ok", "no model to look at")  # `model` tells why
    packed = frozenset() if build.gpu_offload else packed_by_build(build.system_info)
    found = advice(store, model, kind, packed)
    if found is None:
        return Check("weights", "ok", kind or "of a type that the file does not name")
    return Check("weights", "ok", found.finding, found.command)


def daemon(status: Status | EdgeError | None) -> Check:
    """status: None when nothing answers, an error when what answers makes no sense."""
    if status is None:
        return Check("daemon", "ok", "not running")
    if isinstance(status, EdgeError):
        return Check("daemon", "fail", status.message, "stop what listens there, then edge serve")
    models = "; ".join(
        f"{one.name} {one.state}" + (f" on {one.back_end}" if one.facts else "")
        for one in status.models
    )
    finding = f"version {status.version}, {models or 'no models'}"
    for one in status.models:
        if one.state == "failed":
            return Check(
                "daemon", "fail", f"{finding}: {one.error}", "see its log, and `model` here"
            )
        if one.restarts:
            fix = "see its log: the worker of the model died"
            return Check("daemon", "warn", f"{finding}; {one.restarts} restarts", fix)
    return Check("daemon", "ok", finding)


def configuration(found: Config | EdgeError, source: str) -> Check:
    if isinstance(found, EdgeError):
        return Check("config", "fail", found.message, found.hint)
    return Check("config", "ok", source)
