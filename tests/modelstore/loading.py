"""A process that lets llama.cpp load files, each in a child of its own: `loading.py FILE…`, or
`loading.py --base FILE ADAPTER…`.

Writes a line of JSON for each: the signal that ended the child (0: none), and what it said.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from edge.engine.backend import Chunk
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.errors import ModelLoadFailed
from edge.types import Adapter, EngineSettings

LOG = LlamaLog()

SETTINGS = EngineSettings("cpu", 1, None, 1, 0, "f16", 64, 0)
SECONDS = 10
MEMORY = 4 << 30
TEXT = "a bad cafe ü 漢 \n</s>"


def attempt(path: Path, base: Path | None = None) -> str:
    """Load it, and use what a request uses: tokens, their texts, a computation.

    base: what the file is an adapter of.
    """
    adapter = None if base is None else Adapter(str(path), 1.0)
    try:
        backend = LlamaBackend(path.name, base or path, SETTINGS, LOG, adapter)
    except ModelLoadFailed as error:
        return error.message
    tokens = backend.vocabulary.tokenize(TEXT, special=True, bos=backend.vocabulary.adds_bos)
    for token in range(backend.vocabulary.size):
        backend.vocabulary.text(token)
    backend.decode([Chunk(0, 0, tokens[: backend.batch], 1)])
    backend.chat_template()
    backend.close()
    return "loaded"


def in_child(path: Path, base: Path | None, said: BinaryIO) -> int:
    """The signal that ended it; `said` gets its words, and llama.cpp's last ones."""
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            os.write(1, attempt(path, base).encode())
        except BaseException as error:
            os.write(1, repr(error).encode())
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def main() -> None:
    names, base = sys.argv[1:], None
    if names[0] == "--base":
        base, names = Path(names[1]), names[2:]
    for name in names:
        with tempfile.TemporaryFile() as said:
            ended = in_child(Path(name), base, said)
            said.seek(0)
            words = said.read().decode("utf-8", "replace")
        print(json.dumps({"signal": ended, "said": words}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
