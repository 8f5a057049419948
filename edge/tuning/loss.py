"""What another weights type costs: how far the next-token distributions of a copy are from those of
its source, over passages that both read.

Both are loaded in a process of its own (`python -m edge.tuning.loss`), so that a file which brings
llama.cpp down is a finding, and all memory comes back.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from math import exp, isfinite, sqrt
from pathlib import Path
from statistics import mean, pstdev

import msgspec
import numpy as np
import numpy.typing as npt

from edge.engine.backend import Backend, Chunk
from edge.errors import EdgeError, ModelLoadFailed
from edge.modelstore import gguf
from edge.types import EngineSettings

MOST_TOKENS = 512
"""Of a passage; no more than the model's context either."""

SECONDS = 3600.0
"""A comparison that takes longer hangs."""


class Loss(msgspec.Struct, frozen=True):
    """Means over all places where both predicted the next token of a passage.

    divergence: Kullback-Leibler, of the copy from the source, in nats; error: its standard error.
    agreement: part of the places where both think the same token the likeliest.
    perplexity, source_perplexity: of the passages, for the copy and for the source.
    """

    tokens: int
    divergence: float
    error: float
    agreement: float
    perplexity: float
    source_perplexity: float


class _Asked(msgspec.Struct):
    source: str
    copy: str
    settings: EngineSettings
    passages: tuple[str, ...]


def compare_files(
    source: Path, copy: Path, settings: EngineSettings, passages: Sequence[str]
) -> Loss:
    """Compare two files of one model in a process of its own.

    Raises `ModelLoadFailed` when that process fails, whatever the reason.
    """
    asked = _Asked(str(source), str(copy), settings, tuple(passages))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge.tuning.loss"],
            input=msgspec.json.encode(asked),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelLoadFailed(f"comparing {copy} with {source} took too long") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"it ended with {done.returncode}"
        raise ModelLoadFailed(f"{copy} cannot be compared with {source}: {reason}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Loss)


def compare(source: Backend, copy: Backend, passages: Sequence[str], bos: bool) -> Loss:
    """Read the passages with both. bos: whether the model wants its first token before a text.

    Raises `ModelLoadFailed` where numbers that come out are not finite.
    """
    divergences: list[float] = []
    surprises: list[tuple[float, float]] = []
    same = 0
    most = min(source.context, copy.context, MOST_TOKENS)
    for passage in passages:
        tokens = source.vocabulary.tokenize(passage, special=False, bos=bos)[:most]
        rows = zip(_rows(source, tokens), _rows(copy, tokens), tokens[1:], strict=False)
        for right, row, token in rows:
            wanted, found = _log_softmax(right), _log_softmax(row)
            divergences.append(float(np.exp(wanted) @ (wanted - found)))
            surprises.append((-float(wanted[token]), -float(found[token])))
            same += int(right.argmax() == row.argmax())
    if not divergences or not all(map(isfinite, divergences)):
        raise ModelLoadFailed("its numbers are not finite")
    count = len(divergences)
    return Loss(
        tokens=count,
        divergence=mean(divergences),
        error=pstdev(divergences) / sqrt(count),
        agreement=same / count,
        perplexity=exp(mean(copied for _, copied in surprises)),
        source_perplexity=exp(mean(original for original, _ in surprises)),
    )


def _rows(backend: Backend, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
    """The logits behind each token, computed as they are asked for."""
    backend.truncate(0, 0)
    for start in range(0, len(tokens), backend.outputs):
        piece = tokens[start : start + backend.outputs]
        backend.decode([Chunk(0, start, piece, len(piece))])
        yield from backend.logits()


def _log_softmax(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = row.astype(np.float64) - row.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def main() -> int:
    # Here alone: a llama.cpp that was built for another machine must not end whoever compares.
    from edge.engine.llama import LlamaBackend, LlamaLog

    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    log = LlamaLog()
    try:
        context = min(gguf.read_header(Path(asked.source)).context, MOST_TOKENS)
        settings = msgspec.structs.replace(
            asked.settings, slots=1, context=context, batch=64, kv_type="f16", prefix_bytes=0
        )
        source = LlamaBackend("source", Path(asked.source), settings, log)
        copy = LlamaBackend("copy", Path(asked.copy), settings, log)
        loss = compare(source, copy, asked.passages, source.vocabulary.adds_bos)
    except EdgeError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 1
    print(msgspec.json.encode(loss).decode())  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
