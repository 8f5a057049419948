"""Another weights type of an installed model: as a draft, or as a model of its own beside it.

llama.cpp converts the file in a process of its own (`python -m edge.modelstore.quantize`), which
can be killed in the middle and gives its memory back. The original is never written to.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

from edge.disk import sha256_of
from edge.errors import ModelLoadFailed
from edge.modelstore import gguf
from edge.modelstore.store import DRAFT, Installed, ModelStore
from edge.modelstore.versions import manifest_of
from edge.modelstore.workspace import Workspace, unwatched

WeightsType = Literal[
    "Q8_0", "Q6_K", "Q5_1", "Q5_K_M", "Q5_0", "Q4_1", "Q4_K_M", "Q4_K_S", "IQ4_NL", "Q4_0", "Q2_K"
]
"""What a model can be converted to, finest first."""

WEIGHTS_TYPES: tuple[WeightsType, ...] = get_args(WeightsType)

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
    base = model.name if model.active else f"{model.name}@{model.version}"
    name = quantized_name(base, kind)
    original = model.manifest.sha256 if model.manifest else None
    with store.claim(name) as folder:
        if (present := store.find(name)) and _is_of(present, original):
            return present
        # No type here is wider than 8.5 bits, and embeddings may stay as they are.
        Workspace(folder, unwatched).require(2 * model.size)
        draft = folder / f"{name}{DRAFT}"
        try:
            convert(model.path, draft, kind)
            licence = model.manifest.licence if model.manifest else ""
            source = f"{kind} of {base}"
            header, digest = gguf.read_header(draft), sha256_of(draft)
            return store.add(name, draft, manifest_of(header, digest, source, licence, original))
        finally:
            draft.unlink(missing_ok=True)


def _is_of(copy: Installed, original: str | None) -> bool:
    """Whether it was made of that file, as far as it says; earlier releases did not."""
    made_of = copy.manifest and copy.manifest.revision
    return made_of is None or original is None or made_of == original


def convert(source: Path, target: Path, kind: WeightsType) -> None:
    """Write the weights of a file in another type. What an earlier try left goes first.

    Raises `ModelLoadFailed` with llama.cpp's words.
    """
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "edge.modelstore.quantize", str(source), str(target), kind]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelLoadFailed(f"converting {source} to {kind} took too long") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"it ended with {done.returncode}"
        raise ModelLoadFailed(f"llama.cpp cannot convert {source} to {kind}: {reason}")


def main(source: str, target: str, kind: str) -> int:
    # Here alone, for it takes half a second, and only this process needs it.
    import llama_cpp.llama_cpp as lib

    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.allow_requantize = True
    return int(lib.llama_model_quantize(source.encode(), target.encode(), params))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
