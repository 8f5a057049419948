"""Models in parts, as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on.

The first part has the metadata, each has a table of its own tensors. They are joined on their way
into the store, with the bytes of every tensor as they are: one model stays one file with one
digest, so that holding, removing, rolling back and sending it are what they are for all others.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edge.errors import BadModelFile
from edge.modelstore.container import MAGIC, Contents, explained, open_gguf, read_contents
from edge.modelstore.ggml import TENSOR_TYPES
from edge.modelstore.tensors import Tensor, aligned
from edge.modelstore.window import Window

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
"""A part's file name: what the model is called, the number from 1, how many there are."""

_SPLIT = ("split.no", "split.count", "split.tensors.count")
_TYPE_NUMBERS = {kind: number for number, kind in TENSOR_TYPES.items()}
_PIECE = 4 << 20


class _Part(NamedTuple):
    path: Path
    file: BinaryIO
    size: int
    contents: Contents


def part_names(name: str) -> list[str]:
    """The file names of all parts of the model that a file of this name belongs to, in their order;
    the name alone where it is none of several."""
    found = PART.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= int(found[3]):
        return [name]
    return [f"{found[1]}-{number:05}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def model_name(path: Path) -> str:
    """What the model in a file, or in this and others, is called if nobody says."""
    found = PART.fullmatch(path.name)
    return found[1] if found else path.stem


def parts_at(path: Path) -> list[Path]:
    """The files of the model at a path: a file, any of several parts, or a folder with one model.

    Raises `BadModelFile` where one is missing, or a folder has not one model in it.
    """
    if path.is_dir():
        models = {tuple(part_names(file.name)) for file in path.glob("*.gguf")}
        if len(models) != 1:
            raise BadModelFile(
                f"{path} has {len(models)} models in it", hint="name the file that is meant"
            )
        path = path / models.pop()[0]
    paths = [path.with_name(name) for name in part_names(path.name)]
    for part in paths if len(paths) > 1 else []:
        if not part.exists():
            raise BadModelFile(
                f"{part} is missing: the model has {len(paths)} parts",
                hint="bring all of them into one folder",
            )
    return paths


def join(paths: Sequence[Path], target: Path, watch: Callable[[int, int], None]) -> str:
    """Write all parts, in their order, as one file; returns its digest.

    watch: called with bytes written and bytes in all. Raises `BadModelFile` that names the part
    which does not fit, before anything is written or when it changes meanwhile, and `OSError`.
    """
    with ExitStack() as opened:
        parts = [_read(path, opened) for path in paths]
        _check(parts)
        head, digest, done = _head(parts), hashlib.sha256(), 0
        whole = len(head) + sum(size for _, size in _places(parts))
        with open(target, "wb") as file:
            for piece in _pieces(head, parts):
                digest.update(piece)
                file.write(piece)
                done += len(piece)
                watch(done, whole)
        return digest.hexdigest()


def _read(path: Path, opened: ExitStack) -> _Part:
    with explained(path):
        file = opened.enter_context(open_gguf(path))
        size = os.fstat(file.fileno()).st_size
        return _Part(path, file, size, read_contents(Window(file, size)))


def _check(parts: Sequence[_Part]) -> None:
    """That they are the parts of one model, in their order."""
    first = parts[0].contents.metadata
    tensors: set[str] = set()
    for number, part in enumerate(parts):
        with explained(part.path):
            metadata = part.contents.metadata
            said = [metadata.count(key) for key in _SPLIT]
            kind = metadata.text("general.architecture")
        expected = [number, len(parts), first.count("split.tensors.count")]
        wrong = next((i for i, found in enumerate(said) if found != expected[i]), None)
        if wrong is not None:
            raise _foreign(part, f"its {_SPLIT[wrong]} is {said[wrong]}, not {expected[wrong]}")
        if number and kind not in (None, first.text("general.architecture")):
            raise _foreign(part, f"its architecture is {kind}")
        if twice := tensors & part.contents.tensors.keys():
            raise _foreign(part, f"another one has the tensor {min(twice)!r} too")
        tensors |= part.contents.tensors.keys()
    if len(tensors) != first.count("split.tensors.count"):
        raise _foreign(
            parts[0],
            f"it says that all have {first.count('split.tensors.count')} tensors, "
            f"and they have {len(tensors)}",
        )


def _foreign(part: _Part, reason: str) -> BadModelFile:
    return BadModelFile(
        f"{part.path} does not belong to the other parts: {reason}",
        hint="fetch all parts again, of one model and of one version",
    )


def _head(parts: Sequence[_Part]) -> bytes:
    """Metadata of the first part, without what makes it one, and the tensors of all."""
    first = parts[0].contents
    entries = [first.metadata.raw(key) for key in first.metadata if key not in _SPLIT]
    table = [
        _entry(name, tensor, place)
        for (name, tensor), (place, _) in zip(_tensors(parts), _places(parts), strict=True)
    ]
    start = MAGIC + struct.pack("<IQQ", first.version, len(table), len(entries))
    head = b"".join([start, *entries, *table])
    return head.ljust(aligned(len(head), first.alignment), b"\0")


def _tensors(parts: Sequence[_Part]) -> Iterator[tuple[str, Tensor]]:
    for part in parts:
        yield from part.contents.tensors.items()


def _places(parts: Sequence[_Part]) -> Iterator[tuple[int, int]]:
    """Where each tensor is to stand among the weights, and the bytes with those up to the next."""
    alignment, place = parts[0].contents.alignment, 0
    for _, tensor in _tensors(parts):
        size = aligned(tensor.size, alignment)
        yield place, size
        place += size


def _entry(name: str, tensor: Tensor, place: int) -> bytes:
    raw, shape = name.encode(), tensor.shape
    form = f"<Q{len(raw)}sI{len(shape)}QIQ"
    return struct.pack(form, len(raw), raw, len(shape), *shape, _TYPE_NUMBERS[tensor.type], place)


def _pieces(head: bytes, parts: Sequence[_Part]) -> Iterator[bytes]:
    yield head
    alignment = parts[0].contents.alignment
    for part in parts:
        for tensor in part.contents.tensors.values():
            part.file.seek(part.contents.weights + tensor.offset)
            left = tensor.size
            while left:
                piece = part.file.read(min(left, _PIECE))
                if not piece:
                    raise BadModelFile(f"{part.path} shrank while it was read", hint="try again")
                left -= len(piece)
                yield piece
            yield bytes(aligned(tensor.size, alignment) - tensor.size)
