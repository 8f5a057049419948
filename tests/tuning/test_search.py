"""Which settings win, on simulated machines that are noisy, slow down, or fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.errors import ModelLoadFailed
from edge.tuning.candidate import Candidate, Figures, choices
from edge.tuning.search import LEAST_AGREEMENT, Search
from edge.tuning.trial import MOST_PAIRS, Trial
from edge.types import EngineSettings

SETTINGS = EngineSettings("cpu", 2, None, 8, 512, "f16", 512, 0)
BASE = Candidate(Path("m.gguf"), SETTINGS)

Speed = Callable[[Candidate], float]


class Simulated:
    """A lab whose rounds take a second. speed: tokens per second, before the noise."""

    def __init__(self, speed: Speed, noise: float = 0.0, drift: float = 1.0, seed: int = 0) -> None:
        self.speed, self.noise, self.drift = speed, noise, drift
        self.random = random.Random(seed)
        self.now = 0.0
        self.same = 1.0
        self.loaded: list[Candidate] = []
        self.most_loaded = 0

    async def measure(self, candidate: Candidate) -> Figures:
        if candidate not in self.loaded:
            self.loaded.append(candidate)
        self.most_loaded = max(self.most_loaded, len(self.loaded))
        self.now += 1
        rate = self.speed(candidate) * self.random.lognormvariate(0, self.noise)
        rate *= self.drift**self.now
        return Figures(rate, rate, rate, 10**9)

    async def agreement(self, candidate: Candidate) -> float:
        beside = [one for one in self.loaded if one not in (BASE, candidate)]
        self.most_loaded = max(self.most_loaded, len(beside) + 2)
        return self.same

    async def keep(self, *candidates: Candidate) -> None:
        self.loaded = [one for one in self.loaded if one in candidates]

    async def search(self, choices: dict[str, list[Any]], seconds: float = 1e6) -> Search:
        search = Search(self, BASE, lambda: self.now, seconds)
        await search.run(choices, lambda trial: None)
        return search


def threads(speeds: dict[int, float]) -> Speed:
    return lambda candidate: speeds[candidate.settings.threads]


def verdicts(search: Search) -> dict[Any, str]:
    return {trial.value: trial.verdict for trial in search.trials}


async def test_fastest_value_wins() -> None:
    """And the one that was the best before it does not."""
    lab = Simulated(threads({2: 100, 3: 130, 4: 150, 1: 60}))
    search = await lab.search({"threads": [3, 1, 4]})
    assert search.changed == {"threads": 4}
    assert search.best.settings.threads == 4
    assert verdicts(search) == {3: "better", 1: "no better", 4: "better"}


async def test_each_key_is_tried_with_the_best_of_those_before() -> None:
    """A batch that pays only with many threads is found behind them."""

    def speed(candidate: Candidate) -> float:
        many = candidate.settings.threads == 4
        return 100 + 50 * many + (40 if candidate.settings.batch == 128 and many else 0)

    search = await Simulated(speed).search({"threads": [4], "batch": [256, 128]})
    assert search.changed == {"threads": 4, "batch": 128}


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
async def test_noise_alone_rarely_wins(noise: float) -> None:
    """Values that are all the same, on a machine that varies by up to 30 %: of 300 at most 3 %
    are taken for better, for each is tested at 1 %, and stopped as soon as it seems to hold."""
    wins = 0
    for seed in range(300):
        lab = Simulated(lambda candidate: 100.0, noise, seed=seed)
        wins += bool((await lab.search({"threads": [3]})).changed)
    assert wins <= 9


async def test_clear_gain_is_found_in_noise() -> None:
    """A third faster, and 10 % of noise."""
    wins = 0
    for seed in range(100):
        lab = Simulated(threads({2: 100, 4: 135}), noise=0.1, seed=seed)
        wins += (await lab.search({"threads": [4]})).changed == {"threads": 4}
    assert wins >= 85


@pytest.mark.parametrize("drift", [0.95, 1.05])
async def test_machine_that_slows_down_decides_nothing(drift: float) -> None:
    """5 % each round, while the two run in turns."""
    lab = Simulated(lambda candidate: 100.0, noise=0.01, drift=drift)
    assert (await lab.search({"threads": [1, 3, 4], "batch": [256]})).changed == {}


@pytest.mark.parametrize(("rate", "pairs"), [(80, 2), (40, 1)])
async def test_slow_value_is_given_up_early(rate: float, pairs: int) -> None:
    """Two pairs are enough to see that it is slower, one where it is hopeless."""
    lab = Simulated(threads({2: 100, 1: rate}))
    await lab.search({"threads": [1]})
    assert lab.now == 2 * pairs


async def test_one_value_does_not_take_the_time_of_all() -> None:
    """An open question is left open where many more values wait for their turn."""
    lab = Simulated(lambda candidate: 100.0, noise=0.3, seed=3)
    search = await lab.search({"batch": [1024, 256, 128, 64], "slots": [32, 16, 4]}, seconds=30)
    assert all(trial.ratio is not None for trial in search.trials)


async def test_open_question_ends() -> None:
    """A small gain in much noise: so many pairs, and then what is in force stays."""
    lab = Simulated(threads({2: 100, 4: 103}), noise=0.2, seed=5)
    search = await lab.search({"threads": [4]})
    assert lab.now <= 2 * MOST_PAIRS
    assert search.trials[0].verdict in ("no better", "better")


async def test_budget_ends_the_search() -> None:
    """What there was no time for is said to be so, and proposed by nobody."""
    lab = Simulated(threads({2: 100, 3: 130, 4: 200}))
    search = await lab.search({"threads": [3, 4]}, seconds=10)
    assert search.changed == {"threads": 3}
    assert verdicts(search) == {3: "better", 4: "out of time"}
    assert lab.now <= 11


@pytest.mark.parametrize("key", ["kv_type", "weights"])
@pytest.mark.parametrize("same", [LEAST_AGREEMENT - 0.01, LEAST_AGREEMENT])
async def test_faster_and_different_is_only_an_option(key: str, same: float) -> None:
    """Whatever its speed, below the bound it is not taken."""
    lab = Simulated(lambda candidate: 100 if candidate == BASE else 300)
    lab.same = same
    search = await lab.search({key: ["q8_0"]})
    enough = same >= LEAST_AGREEMENT
    assert verdicts(search) == {"q8_0": "better" if enough else "changes answers"}
    assert search.changed == ({"kv_type": "q8_0"} if enough and key == "kv_type" else {})
    assert search.trials[0].agreement == same
    assert (search.best == BASE) is not enough


async def test_value_that_does_not_load_is_passed_over() -> None:
    """With the reason, and the rest is tried."""

    def speed(candidate: Candidate) -> float:
        if candidate.settings.slots == 32:
            raise ModelLoadFailed("no memory")
        return 100 + candidate.settings.slots

    search = await Simulated(speed).search({"slots": [32, 16]})
    assert [trial.error for trial in search.trials] == ["no memory", None]
    assert search.changed == {"slots": 16}


async def test_two_models_are_loaded_at_most() -> None:
    """The best and the one that is tried, so that a small machine can tune, too."""
    speeds = {2: 100, 1: 130, 3: 170, 4: 90}

    def speed(candidate: Candidate) -> float:
        coarse = candidate.settings.kv_type == "q8_0"
        return speeds[candidate.settings.threads] * (2 if coarse else 1)

    lab = Simulated(speed)
    await lab.search({"threads": [1, 3, 4], "batch": [256, 128], "kv_type": ["q8_0"]})
    assert lab.most_loaded == 2
    assert len(lab.loaded) == 1


async def test_interrupted_search_keeps_what_it_knows() -> None:
    """Whatever ends it in the middle."""
    lab = Simulated(threads({2: 100, 3: 130, 4: 200}))

    def stop(trial: Trial) -> None:
        raise KeyboardInterrupt

    search = Search(lab, BASE, lambda: lab.now, 1e6)
    with pytest.raises(KeyboardInterrupt):
        await search.run({"threads": [3, 4]}, stop)
    assert search.best.settings.threads == 3
    assert verdicts(search) == {3: "better"}


def test_choices_leave_out_what_is_in_force() -> None:
    """And threads that the machine has not, slots that its memory has not."""
    found = choices(SETTINGS, slots=8, cores=4, processors=8)
    assert found == {
        "threads": [8, 4, 3],
        "batch": [1024, 256, 128],
        "slots": [32, 16, 4],
        "kv_type": ["q8_0", "q4_0"],
    }
    auto = EngineSettings("cpu", 1, None, 0, 512, "f16", 512, 0)
    assert choices(auto, slots=8, cores=1, processors=1)["slots"] == [4]
    assert choices(auto, slots=8, cores=1, processors=1)["threads"] == []
