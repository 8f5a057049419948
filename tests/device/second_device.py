"""A real second device for the installed llama.cpp: its RPC back end, compiled from the same
release, and a server of it in another process, whose memory can be bounded as that of a card is.

Its buffers, its layers and what it refuses are real; only where it computes is this machine's CPU.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import llama_cpp.llama_cpp as lib
from daemon_process import poll
from ports import free_port

SERVER = """
import ctypes, sys
import llama_cpp.llama_cpp as lib
rpc = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
cpu = lib._lib.ggml_backend_dev_by_type
cpu.restype = ctypes.c_void_p
devices = (ctypes.c_void_p * 1)(cpu(0))
one = ctypes.c_size_t(1)
rpc.ggml_backend_rpc_start_server(sys.argv[2].encode(), None, one, one, devices)
"""

CLIENT = """
import ctypes, os
if os.environ.get("SECOND_DEVICE"):
    import llama_cpp.llama_cpp as lib
    rpc = ctypes.CDLL({library!r}, mode=ctypes.RTLD_GLOBAL)
    add = rpc.ggml_backend_rpc_add_server
    add.restype = ctypes.c_void_p
    lib._lib.ggml_backend_register(ctypes.c_void_p(add(os.environ["SECOND_DEVICE"].encode())))
"""


def build(folder: Path) -> Path:
    """Compile the back end against the installed library; needs g++ and the source package."""
    source = _source(folder) / "vendor/llama.cpp/ggml"
    installed = Path(lib._lib._name).parent
    library = folder / "libggml-rpc.so"
    subprocess.run(
        [
            *("g++", "-O1", "-std=c++17", "-fPIC", "-shared"),
            *(
                "-DGGML_BACKEND_DL",
                "-DGGML_BACKEND_SHARED",
                "-DGGML_BACKEND_BUILD",
                "-DGGML_SHARED",
            ),
            *(f"-I{source / 'include'}", f"-I{source / 'src'}", "-o", str(library)),
            *map(
                str, (source / "src/ggml-rpc/ggml-rpc.cpp", source / "src/ggml-rpc/transport.cpp")
            ),
            *(f"-L{installed}", "-lggml", "-lggml-base", f"-Wl,-rpath,{installed}"),
        ],
        check=True,
    )
    (folder / "path").mkdir()
    (folder / "path/sitecustomize.py").write_text(CLIENT.format(library=str(library)))
    return library


def _source(folder: Path) -> Path:
    """$LLAMA_SOURCE, or the package index's."""
    if given := os.environ.get("LLAMA_SOURCE"):
        return Path(given)
    asked = f"llama-cpp-python=={version('llama-cpp-python')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), asked], check=True)
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    return next(folder.glob("llama_cpp_python-*/"))


@contextmanager
def serving(library: Path, memory: int | None = None) -> Iterator[str]:
    """Its address. memory: bytes beyond what the process has when it is idle."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    # One heap: those of threads reserve addresses, which the bound counts too.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", SERVER, str(library), address]
    server = subprocess.Popen(command, env=environment)
    try:
        poll(lambda: _answers(port), "the second device")
        if memory is not None:
            used = int(Path(f"/proc/{server.pid}/statm").read_text().split()[0]) * 4096
            resource.prlimit(server.pid, resource.RLIMIT_AS, (used + memory, used + memory))
        yield address
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
