"""What is expected next, from what stood behind the same tokens before."""

from __future__ import annotations

import random

from edge.engine.lookup import EXPECTED, MATCH, Lookup


def followed(tokens: list[int], prompt_tokens: int) -> Lookup:
    lookup = Lookup(tokens, prompt_tokens)
    lookup.follow()
    return lookup


def test_what_follows_the_same_tokens_is_expected() -> None:
    """The answer begins to repeat the prompt: the prompt goes on as it did."""
    lookup = followed([1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4], prompt_tokens=9)
    assert lookup.draft(3) == [5, 6, 7]
    assert lookup.draft(100) == [5, 6, 7, 8, 9, 2, 3, 4]
    assert lookup.draft(0) == []


def test_fewer_tokens_in_common_are_no_sign() -> None:
    """Two words that stood together before say nothing."""
    common = list(range(MATCH - 1))
    assert followed([50, *common, 60, 70, 80, *common], prompt_tokens=8).draft(5) == []


def test_nothing_is_expected_of_a_short_sequence() -> None:
    """Shorter than what has to agree, or empty."""
    for length in range(MATCH + 1):
        assert followed(list(range(length)), prompt_tokens=length).draft(5) == []


def test_latest_of_several_places_counts() -> None:
    """The answer's own words are nearer than the prompt's."""
    lookup = followed([1, 2, 3, 10, 1, 2, 3, 20, 1, 2, 3], prompt_tokens=4)
    assert lookup.draft(1) == [20]


def test_place_is_kept_while_it_is_right() -> None:
    """A run is followed to its end, also over tokens that stood elsewhere later."""
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 99, 98, 1, 2, 3]
    lookup = followed(tokens, prompt_tokens=13)
    tokens += [4, 5]
    lookup.follow()
    assert lookup.draft(3) == [6, 7, 8]


def test_wrong_place_is_left() -> None:
    """After a token that was not expected, another place is looked for."""
    tokens = [1, 2, 3, 4, 5, 9, 3, 7, 8, 90, 1, 2, 3]
    lookup = followed(tokens, prompt_tokens=10)
    assert lookup.draft(1) == [4]
    tokens += [7]
    lookup.follow()
    assert lookup.draft(1) == []
    tokens += [4, 5, 9]
    lookup.follow()
    assert lookup.draft(2) == [3, 7]


def test_following_step_by_step_or_at_once_is_the_same() -> None:
    """However many tokens came with a step."""
    pick = random.Random(1)
    for _ in range(300):
        whole = [pick.randrange(4) for _ in range(pick.randrange(60))]
        prompt = pick.randint(0, len(whole))
        growing = whole[:prompt]
        lookup = Lookup(growing, prompt)
        while len(growing) < len(whole):
            growing += whole[len(growing) : len(growing) + pick.randint(1, 5)]
            lookup.follow()
        lookup.follow()
        once = followed(whole, prompt)
        assert (lookup.draft(9), lookup.chance) == (once.draft(9), once.chance)


def test_chance_is_learned_from_the_answer_alone() -> None:
    """A prompt that repeats itself tells nothing of how its answer will be."""
    prompt = [1, 2, 3, 4, 5] * 10
    assert followed(prompt, prompt_tokens=50).chance == EXPECTED
    copied = [*prompt, *prompt]
    assert followed(copied, prompt_tokens=50).chance > 0.95
    departing = [*prompt, *(token for at in range(20) for token in (1, 2, 3, 60 + at))]
    assert followed(departing, prompt_tokens=50).chance < 0.2
