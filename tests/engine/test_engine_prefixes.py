"""Prefixes outlive their slots: what is kept, what is given up for it, and that it is right."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from fake import BYTES_PER_TOKEN, FakeBackend, expected
from stepping import Heard, Stepper, generation

from edge.engine.prefix import Prefix
from edge.engine.prefixes import MOST_TRUST, WORTH_KEEPING, PrefixStore
from edge.types import Generation, TokenPrompt

PLENTY = 10_000 * BYTES_PER_TOKEN


def block(token: int, size: int = 100) -> list[int]:
    return [token] * size


def request(tokens: list[int], name: str, **fields: object) -> Generation:
    fields.setdefault("max_tokens", 2)
    fields.setdefault("ignore_eos", True)
    return generation(TokenPrompt(tokens), name, **fields)


def prefix(tokens: list[int], *, owner: str = "", shared: bool = False) -> Prefix:
    data = np.zeros(BYTES_PER_TOKEN * len(tokens), np.uint8)
    common = len(tokens) if shared else 0
    return Prefix(owner, tokens, data, data.size, len(tokens), common)


def store_of(room: int, *prefixes: Prefix, can_cut: bool = True) -> PrefixStore:
    """A store with room for so many tokens."""
    store = PrefixStore(room * BYTES_PER_TOKEN, can_cut)
    for one in prefixes:
        assert store.add(one)
    return store


class Apps:
    """Programs with a long prompt each that differs at its end from call to call."""

    def __init__(self, count: int, slots: int, size: int = 150, **backend: bool) -> None:
        self.heads = [[1 + app, *block(100 + app, size - 1)] for app in range(count)]
        self.backend = FakeBackend(slots=slots, context=300, batch=64, **backend)
        self.stepper = Stepper(self.backend, kept_bytes=PLENTY)
        self.calls = 0

    def call(self, app: int, **fields: object) -> Heard:
        self.calls += 1
        prompt = [*self.heads[app], 200 + self.calls % 50, 7 + self.calls // 50, 5]
        return self.stepper.submit(request(prompt, f"{self.calls}", **fields))


# The store


def test_longest_prefix_is_found() -> None:
    """Of several that begin like a prompt the one that saves most, cut if need be."""
    long = prefix([*block(1), *block(2)])
    store = store_of(1000, prefix(block(1), shared=True), long)
    assert store.find("", [*block(1), *block(2, 50), 9]) == (long, 150)
    assert store.gain("", [*block(1), *block(2, 50), *block(3)]) == 100
    assert store.find("", block(4)) is None


def test_what_cannot_be_cut_is_used_whole() -> None:
    """A model that cannot go back goes on from where it was, or starts anew."""
    short, long = prefix(block(1)), prefix([*block(1), *block(2)])
    store = store_of(1000, short, long, can_cut=False)
    assert store.find("", [*block(1), *block(2, 50), 9]) == (short, 100)
    assert store.find("", block(1, 99)) is None


def test_owner_alone_finds_a_prefix() -> None:
    """Another caller is not even told that it is there."""
    store = store_of(1000, prefix(block(1), owner="a"))
    assert store.find("b", block(1)) is None
    assert store.gain("b", block(1)) == 100


def test_longer_conversation_replaces_the_shorter() -> None:
    """The next turn holds all of the one before."""
    store = store_of(1000, prefix(block(1)), prefix([*block(1), 2]))
    assert (store.count, store.bytes) == (1, 101 * BYTES_PER_TOKEN)


def test_what_many_share_stays_beside_a_longer_one() -> None:
    """A conversation that begins with it may go sooner."""
    store = store_of(1000, prefix(block(1), shared=True), prefix([*block(1), *block(2)]))
    assert store.count == 2


def test_least_valuable_goes_first() -> None:
    """What was used stays, what was not goes."""
    first, second = prefix(block(1)), prefix(block(2))
    store = store_of(200, first, second)
    store.used(first, 100)
    assert store.add(prefix(block(3)))
    assert store.find("", block(1)) == (first, 100)
    assert store.find("", block(2)) is None


def test_tail_that_nobody_uses_costs_value() -> None:
    """Of two that saved the same, the one with more bytes behind it goes."""
    bare, tailed = prefix(block(1)), prefix([*block(2), *block(3, 50)])
    store = store_of(250, bare, tailed)
    for one in (bare, tailed):
        store.used(one, 100)
    assert store.add(prefix(block(4), shared=True)) is False
    store.used(bare, 100)
    for _ in range(600):
        store.asked()
    assert store.add(prefix(block(4), shared=True))
    assert store.find("", block(1)) == (bare, 100)
    assert store.find("", block(2)) is None


def test_newcomer_does_not_push_out_what_is_worth_more() -> None:
    """A prompt seen once yields to one that many use, until that has aged."""
    star = prefix(block(1), shared=True)
    store = store_of(150, star)
    for _ in range(8):
        store.used(star, 100)
    assert not store.add(prefix(block(2)))
    for _ in range(2000):
        store.asked()
    assert store.add(prefix(block(2)))
    assert store.find("", block(1)) is None


def test_larger_than_the_budget_is_not_kept() -> None:
    """And nothing goes for it."""
    store = store_of(150, prefix(block(1)))
    assert not store.add(prefix(block(2, 151), shared=True))
    assert store.count == 1


def test_pinned_state_outlives_all_others() -> None:
    """Until it is let go."""
    store = store_of(150, prefix(block(1), shared=True))
    parked = prefix(block(2))
    store.pin("p", parked)
    assert store.pinned("p") is parked
    assert store.find("", block(1)) is None
    assert not store.add(prefix(block(3), shared=True))
    assert store.room == 50 * BYTES_PER_TOKEN
    store.unpin("p")
    assert store.bytes == 0


# In the engine


@pytest.mark.parametrize(("window", "times"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("seed", range(5))
def test_no_prefix_is_computed_twice(seed: int, window: bool, times: int) -> None:
    """More programs than slots, called at random and together, with room for their prefixes.

    Where a window slides, once to see what they have in common, and once more to keep it.
    """
    pick = random.Random(seed)
    apps = Apps(12, slots=8, window=window)
    calls: list[tuple[int, Heard]] = []
    for _ in range(80):
        app = pick.randrange(12)
        calls.append((app, apps.call(app)))
        for _ in range(pick.choice([0, 0, 1, 5])):
            apps.stepper.step()
    apps.stepper.run()
    computed = Counter(app for app, heard in calls if not heard.cached)
    assert max(computed.values()) <= times
    assert {heard.cached for _, heard in calls} <= {0, *range(150, 153)}


def test_shared_part_alone_is_kept() -> None:
    """Once, when the second call comes, without what either of them asked."""
    apps = Apps(1, slots=2)
    for _ in range(6):
        apps.call(0)
        apps.stepper.run()
    assert apps.backend.taken == [apps.heads[0]]


def test_shared_part_of_a_running_slot_alone_is_kept() -> None:
    """The same where the first call still runs: the copy is cut before it is kept."""
    apps = Apps(1, slots=3)
    apps.call(0, max_tokens=40)
    for _ in range(6):
        apps.stepper.step()
    apps.call(0)
    apps.call(0)
    apps.stepper.run()
    assert [one.tokens for one in apps.stepper.prefixes._prefixes[""]] == [apps.heads[0]]
    assert apps.backend.copies == []


def test_overwritten_prompt_is_restored() -> None:
    """A prompt whose slot went to another one is not computed again."""
    apps = Apps(2, slots=1)
    apps.call(0)
    apps.call(1)
    apps.stepper.run()
    before = apps.backend.computed
    heard = apps.call(0)
    apps.stepper.run()
    assert heard.cached == 150
    assert apps.backend.computed - before == 3 + 1


def test_overwritten_conversation_goes_on() -> None:
    """The turns so far come back with the answer that was given."""
    stepper = Stepper(FakeBackend(slots=1, context=400), kept_bytes=PLENTY)
    first = stepper.answer(request(block(1), "first", max_tokens=10))
    stepper.answer(request(block(2), "other"))
    turn = [*block(1), *first.tokens[:-1], 7, 8]
    assert stepper.answer(request(turn, "second")).cached == len(turn) - 2


def test_prompts_that_never_come_again_are_left_alone() -> None:
    """Snapshots of them stop soon, and begin again where they turn out to be of use."""
    stepper = Stepper(FakeBackend(slots=1, context=200), kept_bytes=PLENTY)
    pick = random.Random(1)
    for number in range(200):
        prompt = [pick.randrange(250) for _ in range(100)]
        stepper.answer(request(prompt, f"{number}"))
    assert len(stepper.backend.taken) <= MOST_TRUST + 200 / 16 + 1


def test_short_prompts_are_never_kept() -> None:
    """Computing them again costs less."""
    stepper = Stepper(FakeBackend(slots=1), kept_bytes=PLENTY)
    for number in range(20):
        stepper.answer(request([number % 3, *block(5, WORTH_KEEPING - 2)], f"{number}"))
    assert stepper.backend.taken == []


def test_nothing_is_kept_without_a_budget() -> None:
    """No snapshot is even taken."""
    stepper = Stepper(FakeBackend(slots=1))
    for number in range(6):
        stepper.answer(request(block(number % 2), f"{number}"))
    assert stepper.backend.taken == []


def test_another_caller_finds_nothing() -> None:
    """Of what was computed for one caller none counts for another, whether it left its slot or
    not."""
    apps = Apps(2, slots=1)
    for app in (0, 0, 1):
        apps.call(app, caller="a")
        apps.stepper.run()
    heard = apps.call(0, caller="b")
    apps.stepper.run()
    assert heard.cached == 0


def test_marked_prompts_are_shared_by_all_who_mark_theirs() -> None:
    """And by nobody else, in slots and out of them, in either direction."""
    apps = Apps(2, slots=1)

    def cached(caller: str, shared: bool) -> int | None:
        heard = apps.call(0, caller=caller, shared_prefix=shared)
        apps.stepper.run()
        return heard.cached

    assert [cached("a", True), cached("b", False), cached("c", True)] == [0, 0, 150]
    apps.call(1)
    apps.stepper.run()
    assert [cached("d", True), cached("e", False), cached("a", False)] == [150, 0, 0]


def test_failed_restore_is_computed() -> None:
    """The text is the same, and the snapshot is not tried again."""
    apps = Apps(2, slots=1)
    for app in (0, 0, 1):
        apps.call(app)
        apps.stepper.run()
    apps.backend.fails = lambda: True
    heard = apps.call(0)
    apps.stepper.run()
    assert heard.cached == 0
    wanted = expected(apps.backend.model, request([*apps.heads[0], 204, 7, 5], ""), 300)
    assert heard.text == wanted.text
    assert apps.stepper.prefixes.find("", apps.heads[0]) is None


def test_streams_wait_for_one_move_a_step() -> None:
    """Restoring several prefixes at once would hold up those that run."""
    apps = Apps(6, slots=4)
    for app in [*range(6), *range(6)]:
        apps.call(app)
        apps.stepper.run()
    apps.call(5, max_tokens=50)
    while not any(one.decoding for one in apps.stepper.engine.running.values()):
        apps.stepper.step()
    for app in range(3):
        apps.call(app)
    while apps.stepper.engine.waiting:
        before = len(apps.backend.restored) + len(apps.backend.copies)
        apps.stepper.step()
        assert len(apps.backend.restored) + len(apps.backend.copies) <= before + 1
    apps.stepper.run()


def test_restored_window_is_not_cut() -> None:
    """What the window has passed is not in a snapshot: a shorter beginning is computed."""
    stepper = Stepper(FakeBackend(slots=1, context=400, window=True), kept_bytes=PLENTY)
    for number, tokens in enumerate([[*block(1), 5], [*block(1), 6], block(2)]):
        stepper.answer(request(tokens, f"{number}"))
    assert stepper.answer(request([*block(1), 7], "whole")).cached == 100
    assert stepper.answer(request([*block(1, 90), 7], "less")).cached == 0


# Parking


def park_and_overwrite(kept_bytes: int) -> tuple[Stepper, Generation, int]:
    """A batch sequence gives its slot to a critical one; returns what was computed until then."""
    stepper = Stepper(FakeBackend(slots=1, context=400, batch=64), kept_bytes=kept_bytes)
    report = request(block(1, 30), "report", max_tokens=40, priority="batch")
    stepper.submit(report)
    for _ in range(10):
        stepper.step()
    computed = stepper.backend.computed
    stepper.submit(request(block(7, 20), "alarm", max_tokens=3, priority="critical"))
    stepper.step()
    assert set(stepper.engine.running) == {"alarm"}
    return stepper, report, computed


def test_parked_sequence_computes_nothing_again() -> None:
    """It goes on with its pending token, though its slot was overwritten."""
    stepper, report, computed = park_and_overwrite(PLENTY)
    stepper.run()
    heard = stepper.heard["report"]
    assert heard.tokens == expected(stepper.backend.model, report, 400).tokens
    # All but the last token of either answer are computed, each once.
    assert stepper.backend.computed == (30 + 40 - 1) + (20 + 3 - 1) > computed
    assert stepper.prefixes.bytes == 0


def test_parked_sequence_without_room_is_computed_anew() -> None:
    """Its text is the same."""
    stepper, report, _ = park_and_overwrite(5 * BYTES_PER_TOKEN)
    stepper.run()
    heard = stepper.heard["report"]
    assert heard.tokens == expected(stepper.backend.model, report, 400).tokens
    assert stepper.backend.computed > (30 + 40 - 1) + (20 + 3 - 1)


def test_cancelled_parked_sequence_gives_its_room_back() -> None:
    """Nothing of it is kept."""
    stepper, _, _ = park_and_overwrite(PLENTY)
    assert stepper.prefixes.bytes > 0
    stepper.cancel("report")
    assert stepper.prefixes.bytes == 0
    stepper.run()
