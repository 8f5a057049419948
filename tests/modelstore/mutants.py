"""Damages a GGUF file, the same way each time: what disks, cables and strangers do to headers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf

Span = tuple[int, int]
"""Where a number, text or length stands in the file: its first byte, and the one behind it."""

_ODD = (0, 1, 2, 3, 5, 7, 8, 31, 33, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_HUGE = (1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Mutants:
    """Mutants of one file. `count` of them; the same seed makes the same ones."""

    def __init__(self, path: Path) -> None:
        self._whole = path.read_bytes()
        reader = gguf.GGUFReader(path)
        self._head = reader.data_offset
        self._spans = [
            *_spans([field for field in reader.fields.values() if field.offset]),
            *_spans([tensor.field for tensor in reader.tensors]),
        ]
        self._changes: list[Callable[[random.Random, bytearray], None]] = [
            self._flip,
            self._flip,
            self._splice,
            self._splice,
            self._splice,
            self._swap,
            self._shift,
            self._cut,
        ]

    def make(self, count: int, seed: int) -> Iterator[bytes]:
        chance = random.Random(seed)
        for _ in range(count):
            mutant = bytearray(self._whole)
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                chance.choice(self._changes)(chance, mutant)
            yield bytes(mutant)

    def _flip(self, chance: random.Random, mutant: bytearray) -> None:
        """A bit of the header."""
        at = chance.randrange(min(self._head, len(mutant)))
        mutant[at] ^= 1 << chance.randrange(8)

    def _splice(self, chance: random.Random, mutant: bytearray) -> None:
        """Another number, length or type in the place of one."""
        begin, end = chance.choice([span for span in self._spans if span[1] - span[0] in (4, 8)])
        odd = chance.choice(_ODD if end - begin == 4 else _ODD + _HUGE)
        mutant[begin:end] = odd.to_bytes(end - begin, "little")

    def _swap(self, chance: random.Random, mutant: bytearray) -> None:
        """Two fields of the same size."""
        first = chance.choice(self._spans)
        size = first[1] - first[0]
        other = chance.choice([span for span in self._spans if span[1] - span[0] == size])
        mutant[slice(*first)], mutant[slice(*other)] = mutant[slice(*other)], mutant[slice(*first)]

    def _shift(self, chance: random.Random, mutant: bytearray) -> None:
        """All that follows, by bytes too many or too few."""
        at = chance.randrange(min(self._head, len(mutant)))
        if chance.randrange(2):
            mutant[at:at] = chance.randbytes(chance.randrange(1, 33))
        else:
            del mutant[at : at + chance.randrange(1, 33)]

    def _cut(self, chance: random.Random, mutant: bytearray) -> None:
        """The rest of the file is missing."""
        del mutant[max(self._head // 64, chance.randrange(len(mutant))) :]


def _spans(fields: list[gguf.ReaderField]) -> Iterator[Span]:
    for field in fields:
        at = field.offset
        # Of vocabularies a few entries will do: they would crowd out the rest.
        for part in field.parts[:40]:
            yield at, at + part.nbytes
            at += part.nbytes
