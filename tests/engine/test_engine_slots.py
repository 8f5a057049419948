"""The ledger of KV slots: where a prompt goes, and what is given up for it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engine.slots import COPY_PAYS, Placement, Slots, common_prefix

few_tokens = st.lists(st.integers(0, 2), max_size=40)


@given(few_tokens, few_tokens, few_tokens)
def test_common_prefix_is_the_longest(shared: list[int], a: list[int], b: list[int]) -> None:
    """It agrees with counting one by one."""
    left, right = shared + a, shared + b
    naive = 0
    while naive < min(len(left), len(right)) and left[naive] == right[naive]:
        naive += 1
    assert common_prefix(left, right) == naive


def run(slots: Slots, prompt: list[int], placement: Placement | None = None) -> Placement:
    """Place a prompt and compute the rest of it."""
    placement = placement or slots.find(prompt)
    assert placement is not None
    slots.take(placement, prompt)
    slots.extend(placement.slot, prompt[placement.cached :])
    return placement


def hold(*held: list[int]) -> Slots:
    """Resident slots with these contents, used in this order."""
    slots = Slots(len(held))
    for slot, tokens in enumerate(held):
        if tokens:
            run(slots, tokens, Placement(slot, 0))
            slots.release(slot)
    return slots


def block(token: int, size: int = 100) -> list[int]:
    return [token] * size


def check(slots: Slots, prompt: list[int], placement: Placement, running: set[int]) -> None:
    """What must be true of any placement."""
    assert placement.slot not in running
    assert 0 <= placement.cached < len(prompt)
    source = placement.slot if placement.source is None else placement.source
    assert slots.held[source][: placement.cached] == prompt[: placement.cached]
    if not slots.can_truncate:
        assert placement.source is None
        assert placement.cached in (0, len(slots.held[placement.slot]))
        return
    if placement.source is not None:
        assert placement.source != placement.slot
        assert placement.cached >= COPY_PAYS
    longest = max(min(common_prefix(held, prompt), len(prompt) - 1) for held in slots.held)
    assert placement.cached > longest - COPY_PAYS, "a prefix worth a copy is never lost"


@pytest.mark.parametrize("seed", range(40))
def test_books_balance_whatever_happens(seed: int) -> None:
    """Random takes and releases: every slot is free, running or resident, and finds are sound."""
    pick = random.Random(seed)
    slots = Slots(pick.randint(1, 6), can_truncate=pick.random() < 0.8)
    families = [[pick.randrange(99) for _ in range(pick.choice([3, 80, 200]))] for _ in range(3)]
    running: set[int] = set()
    for _ in range(300):
        family = pick.choice(families)
        prompt = [*family[: pick.randint(1, len(family))], *block(pick.randrange(9), 3)]
        before = [list(held) for held in slots.held]
        placement = slots.find(prompt)
        assert [list(held) for held in slots.held] == before, "to ask changes nothing"
        assert (placement is None) == (len(running) == slots.count)
        if placement is not None and pick.random() < 0.6:
            check(slots, prompt, placement, running)
            slots.take(placement, prompt)
            running.add(placement.slot)
            assert slots.held[placement.slot] == prompt[: placement.cached]
            computed = pick.randint(placement.cached, len(prompt))
            slots.extend(placement.slot, prompt[placement.cached : computed])
        elif running:
            slot = pick.choice(sorted(running))
            running.remove(slot)
            slots.release(slot)
        idle = [held for slot, held in enumerate(slots.held) if slot not in running]
        assert slots.running == len(running)
        assert slots.free == sum(not held for held in idle)
        assert slots.free + slots.running + slots.resident == slots.count
        assert slots.tokens == sum(map(len, slots.held))


def test_new_prompt_takes_a_free_slot() -> None:
    """Residents stay while there is a slot that holds nothing."""
    assert hold(block(1), [], block(2)).find(block(3)) == Placement(1, 0)


def test_new_prompt_replaces_the_least_recently_used() -> None:
    """Without a free slot the one that served longest ago goes."""
    slots = hold(block(1), block(2), block(3))
    run(slots, [*block(1), 7])
    slots.release(0)
    assert slots.find(block(9)) == Placement(1, 0)


def test_use_ends_with_the_release() -> None:
    """Who came first and stayed longest was used last."""
    slots = Slots(2)
    run(slots, block(1))
    run(slots, block(2))
    slots.release(1)
    slots.release(0)
    assert slots.find(block(9)) == Placement(1, 0)


def test_source_of_a_copy_was_used() -> None:
    """A prefix that is copied again and again stays, though nobody runs in its slot."""
    slots = hold([*block(1), *block(2, 500)], block(8), [])
    run(slots, [*block(1), 7])
    assert slots.find(block(9)) == Placement(1, 0)


def test_free_slot_next_to_running_ones_is_preferred() -> None:
    """Gaps between running slots cost passes over the weights."""
    slots = Slots(5)
    run(slots, block(1), Placement(2, 0))
    assert slots.find(block(9)) == Placement(1, 0)
    run(slots, block(2), Placement(1, 0))
    assert slots.find(block(9)) == Placement(0, 0)


def test_continued_chat_goes_where_it_was() -> None:
    """A prompt that continues a resident is placed there, and nothing is copied."""
    slots = hold(block(1), block(2), [])
    assert slots.find([*block(1), 7]) == Placement(0, 100)


def test_short_common_part_is_used_in_place_only() -> None:
    """Some shared tokens are better than none, if they need no copy."""
    slots = hold([*block(1, 20), *block(2, 10)])
    assert slots.find([*block(1, 20), 7]) == Placement(0, 20)


def test_running_slot_is_copied_never_taken() -> None:
    """The prefix of a stream that still runs goes into another slot."""
    slots = Slots(3)
    run(slots, block(1))
    assert slots.find([*block(1), 7]) == Placement(1, 100, source=0)


def test_running_slot_with_hardly_more_is_not_copied() -> None:
    """Computing a few tokens in an idle slot that has the rest beats copying all."""
    slots = hold(block(1), [])
    run(slots, [*block(1), *block(2, COPY_PAYS - 1)], Placement(1, 0))
    assert slots.find([*block(1), *block(2, 90)]) == Placement(0, 100)


def test_running_slot_with_much_more_is_copied() -> None:
    """From `COPY_PAYS` tokens more on, a copy is worth it, over the least recently used."""
    slots = hold(block(1), block(9), [])
    run(slots, [*block(1), *block(2, COPY_PAYS)], Placement(2, 0))
    assert slots.find([*block(1), *block(2, 90)]) == Placement(0, 100 + COPY_PAYS, source=2)


def test_long_tail_is_kept_at_the_cost_of_a_free_slot() -> None:
    """A conversation whose beginning is wanted is copied from and goes on to be resident."""
    slots = hold([*block(1), *block(2, 500)], [])
    assert slots.find([*block(1), 7]) == Placement(1, 100, source=0)


def test_long_tail_is_kept_at_the_cost_of_an_older_resident() -> None:
    """With no slot free, the least recently used one makes room for the copy."""
    slots = hold(block(9), [*block(1), *block(2, 500)])
    assert slots.find([*block(1), 7]) == Placement(0, 100, source=1)


def test_oldest_resident_is_cut_and_not_copied() -> None:
    """When source and least recently used are one, its tail goes and nothing moves."""
    slots = hold([*block(1), *block(2, 500)], block(9))
    assert slots.find([*block(1), 7]) == Placement(0, 100)


def test_among_equals_the_least_recently_used_gives_way() -> None:
    """Many chats with one system prompt, all slots full: the stalest one is cut."""
    chats = [[*block(1), *block(token, 300)] for token in (2, 3, 4)]
    slots = hold(*chats)
    run(slots, [*chats[0], 7])
    slots.release(0)
    assert slots.find([*block(1), 8]) == Placement(1, 100)


def test_bare_prefix_is_taken_before_a_chat_is_cut() -> None:
    """A slot that holds little more than what is wanted costs nobody anything."""
    slots = hold([*block(1), *block(2, 300)], [*block(1), 3])
    assert slots.find([*block(1), 8]) == Placement(1, 100)


def test_no_place_while_all_run() -> None:
    """All slots busy: the prompt waits."""
    slots = Slots(1)
    run(slots, block(1))
    assert slots.find(block(2)) is None


def test_whole_prompt_resident_leaves_one_token() -> None:
    """Logits come only of a computed token, so the last one is not taken from the slot."""
    assert hold(block(1)).find(block(1)) == Placement(0, 99)
    assert hold(block(1)).find(block(1, 30)) == Placement(0, 29)
    assert hold(block(1)).find([1]) == Placement(0, 0)
