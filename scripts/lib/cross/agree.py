"""Do the logits of a wheel under emulation agree with this machine's, within the rounding of the
quantization?

Quantized kernels round the activations to 8 bits before each product. Each processor adds up in
another order and rounds its 16-bit numbers elsewhere, so that now and then a value falls on the
other side of a step, and from there on the two go apart. How much such steps can do is measured,
not guessed: the same weights are computed with once more in 32-bit numbers, without any rounding
of activations. The distance to that is what quantization costs. Two computations that are both that
far from the truth, each in a direction of its own, are apart by that times the root of two; no
more is allowed, between the two machines and between the emulated one and the truth. Where they
would say another token the choice has to be a near tie, closer than rounding moves a logit.

The emulated machine computes a part in 32-bit numbers, too. There hardly anything is left that may
differ, so that a fault which the rounding would hide is seen: a tenth of it is allowed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

Rows = np.ndarray[Any, np.dtype[np.float32]]


def distance(ours: Rows, theirs: Rows) -> float:
    """Root mean square over all tokens and positions. The mean of a row says nothing: softmax
    does not see it."""
    return float(np.sqrt(np.mean((_centred(ours) - _centred(theirs)) ** 2)))


def _centred(rows: Rows) -> Rows:
    centred: Rows = rows - rows.mean(axis=1, keepdims=True)
    return centred


def gaps(ours: Rows, theirs: Rows) -> Rows:
    """Where theirs has another first token: by how much ours preferred its own."""
    first, other = ours.argmax(axis=1), theirs.argmax(axis=1)
    apart = np.flatnonzero(first != other)
    gap: Rows = ours[apart, first[apart]] - ours[apart, other[apart]]
    return gap


def complaints(native: Rows, emulated: Rows, exact: Rows, emulated_exact: Rows) -> list[str]:
    """What is wrong. The last may be of the first texts only."""
    if native.shape != emulated.shape:
        return [f"shapes differ: {native.shape} and {emulated.shape}"]
    found = []
    rounding = distance(native, exact)
    allowed = rounding * 2**0.5
    for name, other in (("this machine's", native), ("the exact ones", exact)):
        apart = distance(emulated, other)
        if not apart <= allowed:
            found.append(f"{apart:.3f} from {name}, and rounding makes {allowed:.3f}")
    apart = distance(exact[: len(emulated_exact)], emulated_exact)
    if not apart <= rounding / 10:
        found.append(f"{apart:.4f} apart in 32-bit numbers, where nothing is rounded to 8 bits")
    tie = float(np.abs(_centred(native) - _centred(exact)).max())
    if (widest := float(gaps(native, emulated).max(initial=0))) > tie:
        found.append(f"another first token over a gap of {widest:.3f}; rounding moves {tie:.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("native", type=Path)
    parser.add_argument("emulated", type=Path)
    parser.add_argument("exact", type=Path, help="this machine's, with weights in 32 bits")
    parser.add_argument("emulated_exact", type=Path, help="the emulated one's, likewise")
    options = parser.parse_args()
    native, emulated, exact, emulated_exact = (
        np.load(path)["logits"]
        for path in (options.native, options.emulated, options.exact, options.emulated_exact)
    )
    lines = [f"{native.shape[0]} positions, {native.shape[1]} tokens, spread {native.std():.2f}"]
    lines += [
        _compare("native and exact", native, exact),
        _compare("native and emulated", native, emulated),
        _compare("emulated and exact", emulated, exact),
        _compare("exact on both", exact[: len(emulated_exact)], emulated_exact),
    ]
    found = complaints(native, emulated, exact, emulated_exact)
    lines += [f"WRONG: {problem}" for problem in found] or [
        "They agree within the rounding of the quantization."
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(found))


def _compare(names: str, ours: Rows, theirs: Rows) -> str:
    other = gaps(ours, theirs)
    return (
        f"{names:20} {distance(ours, theirs):.4f} apart (root mean square), "
        f"another first token at {len(other)}, widest gap {other.max(initial=0):.3f}"
    )


if __name__ == "__main__":
    main()
