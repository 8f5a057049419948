"""Which pieces are computed together and when, stepped with a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.onnx.batcher import AGED_SECONDS, MOST_LENGTH, MOST_PADDING, Batcher, Part, Request
from edge.onnx.task import Piece
from edge.types import Priority

ROWS = 8


def request(
    name: str,
    *rows: int,
    priority: Priority = "normal",
    caller: str = "one",
    since: float = 0.0,
    deadline: float | None = None,
    key: str = "k",
    length: int = 0,
) -> Request:
    pieces = [Piece({"x": np.empty(count)}, count, key, length) for count in rows or (1,)]
    return Request(name, priority, caller, since, deadline, pieces)


def names(parts: list[Part]) -> list[str]:
    return [part.request.id for part in parts]


def test_one_request_does_not_wait_for_others() -> None:
    batcher = Batcher(ROWS, delay=1.0)
    assert batcher.pause(0.0) is None
    batcher.add(request("a"))
    assert batcher.pause(0.0) == 0.0


def test_several_wait_for_the_delay_of_the_oldest_and_no_longer() -> None:
    batcher = Batcher(ROWS, delay=1.0)
    batcher.add(request("a", since=0.0))
    batcher.add(request("b", since=0.75))
    assert batcher.pause(0.75) == 0.25
    assert batcher.pause(1.5) == 0.0
    assert names(batcher.take(1.5)) == ["a", "b"]


def test_who_comes_after_company_waits_for_more_of_it() -> None:
    batcher = Batcher(ROWS, delay=1.0)
    for name in "ab":
        batcher.add(request(name))
    batcher.take(1.0)
    batcher.add(request("c", since=1.0))
    assert batcher.pause(1.0) == 1.0
    batcher.take(2.0)
    batcher.add(request("d", since=2.0))
    assert batcher.pause(2.0) == 0.0


def test_a_full_batch_and_a_critical_request_wait_for_nobody() -> None:
    batcher = Batcher(ROWS, delay=1.0, full=4)
    batcher.add(request("a", 2))
    batcher.add(request("b", 2))
    assert batcher.pause(0.0) == 0.0
    batcher = Batcher(ROWS, delay=1.0)
    batcher.add(request("a"))
    batcher.add(request("b", priority="critical"))
    assert batcher.pause(0.0) == 0.0
    assert names(batcher.take(0.0)) == ["b"]


def test_callers_take_turns() -> None:
    batcher = Batcher(2, delay=0.0)
    for number in range(20):
        batcher.add(request(f"many {number}", caller="many"))
    batcher.add(request("few", caller="few"))
    assert "few" in names(batcher.take(0.0))


def test_a_large_request_leaves_others_their_turns() -> None:
    batcher = Batcher(ROWS, delay=0.0)
    batcher.add(request("large", *[ROWS] * 50, caller="many"))
    assert names(batcher.take(0.0)) == ["large"]
    batcher.add(request("small", caller="few"))
    assert "small" in names(batcher.take(0.0)) + names(batcher.take(0.0))


def test_lengths_that_are_alike_are_joined() -> None:
    batcher = Batcher(ROWS, delay=0.0)
    for name, length in (("a", 40), ("b", 100), ("c", 42), ("d", 98)):
        batcher.add(request(name, length=length, caller=name))
    assert names(batcher.take(0.0)) == ["a", "c"]
    assert names(batcher.take(0.0)) == ["b", "d"]


def test_a_gpu_is_given_all_rows_that_fit() -> None:
    """Its batches end at their number of rows: half a dozen texts do not fill it."""
    for longest, together in [(MOST_LENGTH, 2), (None, ROWS)]:
        batcher = Batcher(ROWS, delay=0.0, longest=longest)
        for at in range(ROWS + 1):
            batcher.add(request(f"{at}", length=MOST_LENGTH // 2))
        assert len(batcher.take(0.0)) == together


def test_a_batch_request_ranks_as_a_normal_one_in_time() -> None:
    """However many normal ones come, each of which would go before it."""
    batcher, now = Batcher(1, delay=0.0), 0.0
    batcher.add(request("batch", priority="batch", caller="b"))
    for number in range(1000):
        batcher.add(request(f"n{number}", caller="a", since=now))
        if names(batcher.take(now)) == ["batch"]:
            break
        now += 1.0
    assert AGED_SECONDS <= now <= AGED_SECONDS + 3


def test_a_model_without_batches_computes_one_piece_at_a_time() -> None:
    batcher = Batcher(0, delay=1.0)
    for name in "ab":
        batcher.add(request(name))
    assert batcher.pause(0.0) == 0.0
    assert [names(batcher.take(0.0)), names(batcher.take(0.0))] == [["a"], ["b"]]


@dataclass
class Arrival:
    pause: float
    rows: list[int]
    priority: Priority
    caller: str
    key: str
    length: int
    patience: float | None
    cancelled: bool


ARRIVALS = st.builds(
    Arrival,
    pause=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
    rows=st.lists(st.integers(1, ROWS), min_size=1, max_size=5),
    priority=st.sampled_from(get_args(Priority)),
    caller=st.sampled_from("abc"),
    key=st.sampled_from("kl"),
    length=st.sampled_from([0, 8, 9, 20, 300]),
    patience=st.sampled_from([None, None, 1.0, 5.0]),
    cancelled=st.booleans(),
)


@given(st.lists(ARRIVALS, max_size=30), st.sampled_from([0.0, 0.01, 2.0]))
def test_each_piece_is_computed_once_or_its_request_is_gone(
    arrivals: list[Arrival], delay: float
) -> None:
    batcher, now = Batcher(ROWS, delay), 0.0
    there: dict[str, Request] = {}
    done: Counter[tuple[str, int]] = Counter()
    gone: set[str] = set()

    def compute() -> None:
        nonlocal now
        gone.update(one.id for one in batcher.expired(now))
        pause = batcher.pause(now)
        if pause is None:
            return
        assert 0.0 <= pause <= delay + 1e-9
        now += pause
        gone.update(one.id for one in batcher.expired(now))
        if not len(batcher):
            return
        ranks = [there[name].rank(now) for name in there if left(name)]
        parts = batcher.take(now)
        check(parts, min(ranks))
        done.update((part.request.id, part.place) for part in parts)
        now += 0.7

    def left(name: str) -> bool:
        pieces = there[name].pieces
        return name not in gone and any(not done[name, at] for at in range(len(pieces)))

    def check(parts: list[Part], first: int) -> None:
        assert parts[0].request.rank(now) == first
        assert len({part.piece.key for part in parts}) == 1
        assert len(parts) == 1 or sum(part.piece.rows for part in parts) <= ROWS
        assert first or all(part.request.rank(now) == 0 for part in parts)
        lengths = [part.piece.length for part in parts for _ in range(part.piece.rows)]
        padded = len(lengths) * max(lengths)
        assert len(parts) == 1 or padded <= min(MOST_LENGTH, MOST_PADDING * sum(lengths))
        assert not gone & set(names(parts))

    for number, arrival in enumerate(arrivals):
        now += arrival.pause
        name = f"r{number}"
        there[name] = request(
            name,
            *arrival.rows,
            priority=arrival.priority,
            caller=arrival.caller,
            since=now,
            deadline=None if arrival.patience is None else now + arrival.patience,
            key=arrival.key,
            length=arrival.length,
        )
        batcher.add(there[name])
        if arrival.cancelled:
            compute()
            batcher.drop(name)
            gone.add(name)
        if number % 3 == 0:
            compute()
    while len(batcher):
        compute()
    assert all(count == 1 for count in done.values())
    for name, one in there.items():
        if name not in gone:
            assert all(done[name, at] for at in range(len(one.pieces)))
