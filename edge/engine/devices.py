"""What llama.cpp can compute on here: its back ends and their devices, asked of the library itself.

Run as a program it prints what the installed build is, as JSON: `host/llama_build.py` does so,
because a library that was built for another machine dies on import.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import llama_cpp
import llama_cpp.llama_cpp as lib
import msgspec

Kind = Literal["cpu", "gpu", "integrated", "accelerator", "other"]
"""In the order of ggml's own numbers. integrated: a GPU that shares the main memory."""

_KINDS: tuple[Kind, ...] = get_args(Kind)
_PLUG_IN = "libggml-cuda.so"


class Device(msgspec.Struct, frozen=True):
    """name: as buffers are called by, such as CUDA0. free, total: bytes, as the back end says; of
    an integrated one that is what the machine has available."""

    name: str
    description: str
    kind: Kind
    back_end: str
    free: int
    total: int

    @property
    def is_gpu(self) -> bool:
        return self.kind in ("gpu", "integrated")


class Build(msgspec.Struct):
    """back_ends: that were compiled in, or are loaded. unloadable: why CUDA's is there and was not
    loaded, None where that is not so."""

    version: str
    gpu_offload: bool
    system_info: str
    back_ends: list[str]
    devices: list[Device]
    unloadable: str | None


def devices() -> list[Device]:
    count = _call("ggml_backend_dev_count", ctypes.c_size_t)
    return [
        _device(_call("ggml_backend_dev_get", ctypes.c_void_p, number)) for number in range(count)
    ]


def back_ends() -> list[str]:
    count = _call("ggml_backend_reg_count", ctypes.c_size_t)
    found = [_call("ggml_backend_reg_get", ctypes.c_void_p, number) for number in range(count)]
    return [_text("ggml_backend_reg_name", one) for one in found]


def _device(pointer: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("ggml_backend_dev_memory", None, pointer, ctypes.byref(free), ctypes.byref(total))
    kind = _call("ggml_backend_dev_type", ctypes.c_int, pointer)
    return Device(
        name=_text("ggml_backend_dev_name", pointer),
        description=_text("ggml_backend_dev_description", pointer),
        kind=_KINDS[min(kind, len(_KINDS) - 1)],
        back_end=_text(
            "ggml_backend_reg_name", _call("ggml_backend_dev_backend_reg", ctypes.c_void_p, pointer)
        ),
        free=free.value,
        total=total.value,
    )


def _call(name: str, result: Any, *arguments: Any) -> Any:
    """One of ggml's functions. The bindings have no names for them; they are found through the
    library that needs them. A number is an index, or a pointer: both are as wide."""
    function = getattr(lib._lib, name)
    function.restype = result
    return function(*(ctypes.c_size_t(a) if isinstance(a, int) else a for a in arguments))


def _text(name: str, pointer: int) -> str:
    said = _call(name, ctypes.c_char_p, pointer)
    return said.decode("utf-8", "replace") if said else ""


def _unloadable(loaded: list[str]) -> str | None:
    """A back end that is a file of its own is left out without a word where a library that it needs
    is missing."""
    file = Path(lib._lib._name).with_name(_PLUG_IN)
    if "CUDA" in loaded or not file.exists():
        return None
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        return str(error)
    return "it was not loaded, though it can be"


def build() -> Build:
    offload = bool(lib.llama_supports_gpu_offload())
    loaded = back_ends()
    return Build(
        version=llama_cpp.__version__,
        gpu_offload=offload,
        system_info=lib.llama_print_system_info().decode("utf-8", "replace"),
        back_ends=loaded,
        devices=devices(),
        unloadable=_unloadable(loaded),
    )


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(build()).decode() + "\n")
