"""Threads that prepare and finish work for all models, the most urgent first."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

logger = logging.getLogger("edge.onnx")

FINISHING = -1
"""Rank of what was computed already: nothing but a little work is between it and its caller."""


@dataclass(order=True)
class _Errand:
    rank: int
    number: int
    work: Callable[[], None] = field(compare=False)


class Crew:
    """Any thread may hand it work; within a rank it is done in the order in which it came."""

    def __init__(self, threads: int) -> None:
        self._line: queue.PriorityQueue[_Errand] = queue.PriorityQueue()
        self._numbers = count()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"crew {number}", daemon=True).start()

    def hand(self, rank: int, work: Callable[[], None]) -> None:
        """work: raises nothing; one that does is a bug, and ends the process."""
        self._line.put(_Errand(rank, next(self._numbers), work))

    def _run(self) -> None:
        while True:
            errand = self._line.get()
            try:
                errand.work()
            except BaseException:
                logger.exception("a thread of the crew failed")
                os._exit(1)
