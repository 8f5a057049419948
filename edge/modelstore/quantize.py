"""Another weights type of an installed model, as a model of its own beside it.

llama.cpp converts the file in a process of its own (`python -m edge.modelstore.quantize`), which
can be killed in the middle and gives its memory back. The original is never written to.
"""

from __future__ import annotations

import datetime
import logging
import subprocess
import sys
from pathlib import Path
from typing import Literal

from edge.disk import sha256_of
from edge.errors import ModelLoadFailed
from edge.modelstore import gguf
from edge.modelstore.store import Installed, Manifest, ModelStore
from edge.modelstore.workspace import Workspace

WeightsType = Literal["Q4_0", "Q8_0"]

SECONDS = 3600.0
"""A conversion that takes longer hangs."""

logger = logging.getLogger(__name__)


def quantized_name(name: str, kind: WeightsType) -> str:
    return f"{name}-{kind.lower()}"


def quantize(store: ModelStore, model: Installed, kind: WeightsType) -> Installed:
    """The model with weights of that type, installed under a name of its own; made if need be.

    Weights that are quantized already are quantized again, which costs quality. Raises
    `ModelLoadFailed` with llama.cpp's words, `PullFailed` when there is no room on the disk.
    """
    name = quantized_name(model.name, kind)
    with store.claim(name) as folder:
        if present := store.find(name):
            return present
        # No type here is wider than 8.5 bits, and embeddings may stay as they are.
        Workspace(folder, lambda done, total: None).require(2 * model.size)
        draft = folder / f"{name}.gguf"
        draft.unlink(missing_ok=True)
        try:
            _convert(model.path, draft, kind)
            gguf.read_header(draft)
            manifest = _manifest(model, draft, kind)
            store.add(name, draft, manifest)
        finally:
            draft.unlink(missing_ok=True)
    made = store.find(name)
    assert made is not None
    return made


def _convert(source: Path, target: Path, kind: WeightsType) -> None:
    command = [sys.executable, "-m", "edge.modelstore.quantize", str(source), str(target), kind]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelLoadFailed(f"converting {source} to {kind} took too long") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"it ended with {done.returncode}"
        raise ModelLoadFailed(f"llama.cpp cannot convert {source} to {kind}: {reason}")


def _manifest(model: Installed, file: Path, kind: WeightsType) -> Manifest:
    return Manifest(
        source=f"{kind} of {model.name}",
        sha256=sha256_of(file),
        size=file.stat().st_size,
        licence=model.manifest.licence if model.manifest else "",
        pulled_at=datetime.datetime.now(datetime.timezone.utc),
    )


def main(source: str, target: str, kind: str) -> int:
    # Here alone, for it takes half a second, and only this process needs it.
    import llama_cpp.llama_cpp as lib

    types = {"Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0, "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0}
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = types[kind]
    params.allow_requantize = True
    return int(lib.llama_model_quantize(source.encode(), target.encode(), params))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
