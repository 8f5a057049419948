"""How many prompt tokens go beside running streams, learned from simulated machines."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from edge.engine.scheduler import SMALLEST_CHUNK, STRETCH, UNNOTICED_SECONDS, Scheduler

Cost = Callable[[int, int], float]
"""Seconds of a step with so many generating sequences and prompt tokens."""

MACHINES: dict[str, Cost] = {
    "linear": lambda decodes, prompt: 0.030 + 0.002 * decodes + 0.003 * prompt,
    "fast at prompts": lambda decodes, prompt: 0.050 + 0.0002 * prompt,
    "dear first token": lambda decodes, prompt: 0.040 + (0.024 if prompt else 0) + 0.0002 * prompt,
    "slow beyond 32": lambda decodes, prompt: 0.030 + 0.0004 * prompt + 0.003 * max(0, prompt - 32),
    "in blocks of 16": lambda decodes, prompt: 0.030 + 0.012 * -(-prompt // 16),
    "a little board": lambda decodes, prompt: 0.2 + 0.1 * decodes + 0.02 * prompt,
}


@dataclass
class Stub:
    """As much of a sequence as the scheduler looks at."""

    pending: int
    decoding: bool = False
    rank: int = 1
    caller: str = ""
    unread: bool = False

    @property
    def urgent(self) -> bool:
        return self.rank == 0


@dataclass
class Step:
    decodes: int
    chunk: int
    seconds: float
    stretch: float


class Machine:
    """Runs the scheduler against a cost function; there is always a prompt that waits."""

    def __init__(self, cost: Cost, batch: int = 512, inter_token_ms: float | None = None) -> None:
        self.cost = cost
        self.scheduler = Scheduler(batch, inter_token_ms)
        self.steps: list[Step] = []

    def step(
        self, decodes: int, prompt: int = 10**6, hiccup: float = 1.0, waiting: int = 1
    ) -> Step:
        prompts = [Stub(prompt)] * waiting if prompt else []
        sequences = [*[Stub(1, True)] * decodes, *prompts]
        plan = self.scheduler.plan(sequences)  # type: ignore[arg-type]
        chunk = sum(count for _, count in plan) - decodes
        seconds = self.cost(decodes, chunk) * hiccup
        self.scheduler.observe(decodes, chunk, seconds)
        stretch = self.cost(decodes, chunk) / self.cost(decodes, 0)
        self.steps.append(Step(decodes, chunk, seconds, stretch))
        return self.steps[-1]

    def run(self, decodes: Iterable[int]) -> Machine:
        for count in decodes:
            self.step(count)
        return self


def chunks(steps: list[Step]) -> list[int]:
    return [step.chunk for step in steps]


def fair_chunk(cost: Cost, decodes: int, batch: int = 512) -> int:
    """The largest chunk that keeps to `STRETCH`, or the smallest there is."""
    limit = STRETCH * cost(decodes, 0)
    fits = [n for n in range(SMALLEST_CHUNK, batch - decodes + 1) if cost(decodes, n) <= limit]
    return max(fits, default=SMALLEST_CHUNK)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("decodes", [1, 4, 16])
def test_chunk_converges_to_what_fits(name: str, decodes: int) -> None:
    """On any machine the chunk ends up near the largest one that keeps steps short enough."""
    cost = MACHINES[name]
    machine = Machine(cost).run([decodes] * 150)
    late = [step for step in machine.steps[60:] if step.chunk]
    fair = fair_chunk(cost, decodes)
    assert max(step.chunk for step in late) <= 1.3 * fair
    assert sum(chunks(late)) / len(late) >= 0.6 * fair
    if fair > SMALLEST_CHUNK:
        assert max(step.stretch for step in late) <= 1.3 * STRETCH


@pytest.mark.parametrize("name", ["linear", "fast at prompts", "slow beyond 32"])
@pytest.mark.parametrize("target", [80, 150])
@pytest.mark.parametrize("prompts", [1, 12])
def test_chunk_keeps_to_a_named_time(name: str, target: float, prompts: int) -> None:
    """However short a plain step is, and however many wait: the time that was asked for."""
    machine = Machine(MACHINES[name], inter_token_ms=target)
    for _ in range(150):
        machine.step(4, prompt=10**6, waiting=prompts)
    late = [step.seconds for step in machine.steps[60:] if step.chunk]
    assert max(late) <= 1.3 * target / 1000
    assert sum(late) / len(late) >= 0.7 * target / 1000


def test_time_that_cannot_be_kept_still_computes_prompts() -> None:
    """A target below a plain step gets the smallest chunks, and prompts go on."""
    machine = Machine(MACHINES["a little board"], inter_token_ms=5).run([4] * 100)
    assert set(chunks(machine.steps[10:])) <= {0, SMALLEST_CHUNK}
    assert sum(1 for size in chunks(machine.steps) if size) > 90


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("seed", range(5))
def test_noise_leaves_streams_and_prompts_alive(name: str, seed: int) -> None:
    """With times that vary by a third, gaps stay bounded and prompts go on."""
    pick = random.Random(seed)
    machine = Machine(MACHINES[name])
    for _ in range(400):
        machine.step(8, hiccup=pick.uniform(0.8, 1.3))
    late = machine.steps[60:]
    fair = fair_chunk(MACHINES[name], 8)
    if fair > SMALLEST_CHUNK:
        assert sum(step.stretch for step in late) / len(late) <= 1.2 * STRETCH
    assert sum(chunks(late)) / len(late) >= min(fair, max(SMALLEST_CHUNK, 0.4 * fair)) * 0.9


def test_first_chunk_is_small() -> None:
    """Nothing is known of a machine at first, so nobody's stream pays for learning it."""
    machine = Machine(MACHINES["linear"]).run([4] * 3)
    assert chunks(machine.steps)[:2] == [0, SMALLEST_CHUNK]


def test_chunk_grows_step_by_step() -> None:
    """A larger chunk may cost more than in proportion, so it is approached."""
    machine = Machine(MACHINES["fast at prompts"]).run([4] * 100)
    sizes = [size for size in chunks(machine.steps) if size]
    assert max(sizes) > 200
    assert all(after <= 2.5 * before for before, after in itertools.pairwise(sizes))


@pytest.mark.parametrize("name", MACHINES)
def test_prompts_never_starve(name: str) -> None:
    """However dear a prompt token is, a prompt moves in nearly every step."""
    machine = Machine(lambda d, p: MACHINES[name](d, 20 * p)).run([8] * 200)
    moved = [size for size in chunks(machine.steps) if size]
    assert min(moved) >= SMALLEST_CHUNK
    assert len(moved) >= 0.9 * 200


def test_load_without_a_pause_still_finds_the_chunk() -> None:
    """Prompts in every step and ever more streams: what was learned with few is not used."""
    cost = MACHINES["linear"]
    machine = Machine(cost).run([min(31, 1 + at // 10) for at in range(500)])
    late = [step for step in machine.steps[-100:] if step.chunk]
    assert max(step.stretch for step in late) <= 1.3 * STRETCH
    assert sum(chunks(late)) / len(late) >= 0.6 * fair_chunk(cost, 31)


def test_fewer_streams_get_a_smaller_chunk() -> None:
    """A plain step with one stream is shorter than with thirty, and so must be a mixed one."""
    machine = Machine(MACHINES["linear"]).run([31] * 100 + [1] * 100)
    assert max(step.stretch for step in machine.steps[110:]) <= 1.3 * STRETCH


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_machine_that_changes_its_speed_is_learned_anew(factor: float) -> None:
    """A board that throttles, or recovers, ends up with the chunk that fits again."""
    cost = MACHINES["linear"]
    machine = Machine(cost)
    for at in range(600):
        machine.step(8, hiccup=1.0 if at < 100 else factor)
    fair = fair_chunk(cost, 8)
    late = [step for step in machine.steps[-100:] if step.chunk]
    allowed = max(STRETCH, UNNOTICED_SECONDS / (factor * cost(8, 0)))
    assert max(step.stretch for step in late) <= 1.3 * allowed
    assert sum(chunks(late)) / len(late) >= 0.6 * fair


def test_alarm_goes_alone_beside_what_nobody_reads() -> None:
    """Whole, as far as the batch holds it; a stream that somebody reads is not held up by it."""
    unread, alarm = Stub(1, True, unread=True), Stub(300, rank=0)
    other = Stub(50)
    scheduler = Scheduler(512)
    plan = scheduler.plan([unread, unread, other, alarm])  # type: ignore[list-item]
    assert plan == [(alarm, 300)]
    long = Stub(900, rank=0)
    assert scheduler.plan([unread, long]) == [(long, 512)]  # type: ignore[list-item]
    read = Stub(1, True)
    plan = scheduler.plan([unread, read, alarm])  # type: ignore[list-item]
    assert plan[:2] == [(unread, 1), (read, 1)]


def test_one_long_step_is_forgotten() -> None:
    """A hiccup of the whole machine, even in the first step, does not decide the chunk for good."""
    machine = Machine(MACHINES["linear"])
    machine.step(8, hiccup=10)
    machine.run([8] * 400)
    machine.step(8, hiccup=100)
    machine.run([8] * 50)
    late = [step for step in machine.steps[-20:] if step.chunk]
    assert max(step.stretch for step in late) <= 1.3 * STRETCH
    assert sum(chunks(late)) / len(late) >= 0.6 * fair_chunk(MACHINES["linear"], 8)


def test_short_prompts_go_in_one_step() -> None:
    """On a machine that is fast at prompts, short ones are soon computed at once."""
    machine = Machine(MACHINES["fast at prompts"])
    for at in range(200):
        machine.step(8, prompt=72 if at % 5 == 0 else 0)
    assert machine.step(8, prompt=72).chunk == 72


@pytest.mark.parametrize("batch", [32, 33, 48])
def test_streams_leave_at_most_the_batch(batch: int) -> None:
    """31 streams and a prompt in a small batch: never more than the batch, and all move."""
    machine = Machine(MACHINES["fast at prompts"], batch)
    for _ in range(100):
        step = machine.step(31)
        assert step.chunk <= batch - 31
    assert max(chunks(machine.steps)) == min(batch - 31, fair_chunk(machine.cost, 31, batch))


def test_prompts_alone_fill_the_batch() -> None:
    """Several short prompts share one step, in order of arrival."""
    prompts = [Stub(200), Stub(200), Stub(200), Stub(5)]
    plan = Scheduler(512).plan(prompts)  # type: ignore[arg-type]
    assert [(entry[0], entry[1]) for entry in plan] == [
        (prompts[0], 200),
        (prompts[1], 200),
        (prompts[2], 112),
    ]


@pytest.mark.parametrize("unread", [True, False])
def test_alarm_goes_whole_beside_batch_work_only(unread: bool) -> None:
    """Its prompt is cut up for streams that somebody reads along with, and no other prompt goes
    whole with it."""
    streams = [Stub(1, decoding=True, rank=2, unread=True) for _ in range(7)]
    streams += [Stub(1, decoding=True, unread=unread)]
    alarm, report = Stub(300, rank=0), Stub(300, rank=2, unread=True)
    scheduler = Scheduler(512)
    for _ in range(40):
        scheduler.observe(8, 0, 0.080)
        scheduler.observe(8, 20, 0.160)
    plan = scheduler.plan([*streams, report, alarm])  # type: ignore[arg-type]
    planned = {id(entry): count for entry, count in plan}
    assert (planned[id(alarm)] == 300) if unread else (planned[id(alarm)] < 60)
    assert planned.get(id(report), 0) < 60


def test_nothing_to_run_is_an_empty_plan() -> None:
    """An idle engine plans nothing."""
    assert Scheduler(512).plan([]) == []
