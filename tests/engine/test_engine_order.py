"""Who is served when: priorities, deadlines, callers in turns, and nobody forgotten.

The clock is stepped by the tests; a step of the engine takes a second of it.
"""

from __future__ import annotations

import pytest
from fake import FakeBackend, expected
from stepping import Stepper, generation

from edge.engine.sequence import AGED_SECONDS
from edge.engine.waiting import MOST_PARKS, UNHURRIED_SECONDS
from edge.turns import Turns
from edge.types import Failed, Generation, Started, TokenPrompt


class Shop:
    """An engine with a clock, and requests that are all different."""

    def __init__(self, slots: int = 1, batch: int = 64, context: int = 400) -> None:
        self.now = 1000.0
        self.backend = FakeBackend(slots=slots, context=context, batch=batch)
        self.stepper = Stepper(self.backend, clock=lambda: self.now)
        self.started: list[str] = []
        self.asked: dict[str, Generation] = {}

    def ask(self, name: str, tokens: int = 3, prompt: int = 2, **fields: object) -> Generation:
        """`tokens` long, behind a prompt of `prompt` tokens that nobody else has."""
        begin = [1 + len(self.asked) % 200, 1 + len(self.asked) // 200]
        request = generation(
            TokenPrompt([*begin, *[7] * (prompt - 2)]),
            name,
            max_tokens=tokens,
            ignore_eos=True,
            **fields,
        )
        self.asked[name] = request
        self.stepper.submit(request)
        return request

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            events = self.stepper.step()
            self.started += [event.id for event in events if isinstance(event, Started)]
            self.now += 1

    def run(self) -> list[str]:
        """Until all is over; returns who started, in order."""
        while not self.stepper.engine.idle:
            self.step()
        return self.started

    @property
    def running(self) -> set[str]:
        return set(self.stepper.engine.running)

    def failed(self, name: str) -> bool:
        return self.stepper.heard[name].failure == "deadline_exceeded"


# Deadlines


def test_late_sequence_never_gets_a_slot() -> None:
    """It fails while it waits, nothing is computed for it, and those behind it move up."""
    shop = Shop()
    shop.ask("long", tokens=10)
    shop.step()
    shop.ask("late", deadline=shop.now + 3)
    shop.ask("next")
    shop.step(3)
    assert not shop.failed("late")
    shop.step()
    assert shop.failed("late")
    assert shop.run() == ["long", "next"]
    assert len(shop.stepper.heard["long"].tokens) == 10


@pytest.mark.parametrize("prompt", [2, 300])
def test_running_one_stops_at_its_deadline(prompt: int) -> None:
    """In the middle of its text or of its prompt; its slot is free for the next."""
    shop = Shop()
    shop.ask("slow", tokens=50, prompt=prompt, deadline=shop.now + 4)
    shop.step(4)
    assert shop.running == {"slow"}
    computed = shop.backend.computed
    shop.step()
    assert shop.failed("slow")
    assert shop.backend.computed == computed
    shop.ask("next")
    assert shop.run() == ["slow", "next"]


def test_parked_one_fails_at_its_deadline() -> None:
    """Nothing of it is left."""
    shop = Shop()
    shop.ask("report", tokens=30, priority="batch", deadline=shop.now + 5)
    shop.step(2)
    shop.ask("alarm", tokens=10, priority="critical")
    shop.run()
    assert shop.failed("report")
    assert len(shop.stepper.heard["alarm"].tokens) == 10


def test_deadline_that_was_over_at_the_start() -> None:
    """Time passes on the way to the engine, too."""
    shop = Shop()
    shop.ask("old", deadline=shop.now - 1)
    assert [type(event) for event in shop.stepper.step()] == [Failed]
    assert shop.backend.computed == 0


def test_earliest_deadline_first() -> None:
    """Within a rank; those without one come after those that have one."""
    shop = Shop()
    shop.ask("running", tokens=2)
    shop.step()
    shop.ask("whenever")
    shop.ask("soon", deadline=shop.now + 30)
    shop.ask("sooner", deadline=shop.now + 20)
    shop.ask("report", priority="batch", deadline=shop.now + 19)
    shop.ask("distant", deadline=shop.now + 10 * UNHURRIED_SECONDS)
    assert shop.run() == ["running", "sooner", "soon", "whenever", "distant", "report"]


def test_one_without_a_deadline_does_not_starve() -> None:
    """Ever new deadlines overtake it for a bounded time."""
    shop = Shop()
    shop.ask("running")
    shop.step()
    shop.ask("patient")
    began, count = shop.now, 0
    while "patient" not in shop.started:
        count += 1
        shop.ask(f"{count}", tokens=2, deadline=shop.now + 30)
        shop.step()
        assert shop.now - began <= UNHURRIED_SECONDS + 2
    assert count > 20


# Nobody is forgotten


def test_old_batch_work_ranks_as_normal_and_before_newer() -> None:
    """Having waited long enough, it is the next; before that it is the last."""
    shop = Shop()
    shop.ask("running", tokens=int(AGED_SECONDS) + 1)
    shop.step()
    shop.ask("old report", priority="batch")
    shop.step(5)
    shop.ask("newer report", priority="batch")
    while len(shop.stepper.engine.running):
        shop.step()
    shop.ask("normal")
    assert shop.run() == ["running", "old report", "normal", "newer report"]


def test_old_batch_work_parks_nobody() -> None:
    """It never ranks as critical."""
    shop = Shop()
    shop.ask("first", tokens=int(AGED_SECONDS) + 30, priority="batch")
    shop.step()
    shop.ask("old", priority="batch")
    shop.step(int(AGED_SECONDS) + 5)
    assert shop.running == {"first"}
    shop.ask("alarm", priority="critical")
    shop.step()
    assert shop.running == {"alarm"}


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("callers", [1, 3])
@pytest.mark.parametrize("deadline", [None, 25.0])
def test_batch_work_ends_under_endless_normal_load(
    slots: int, callers: int, deadline: float | None
) -> None:
    """There are always normal requests that wait, with long prompts; each report ends all the
    same, within a time that does not depend on how long the load goes on."""
    shop = Shop(slots=slots, batch=16)
    reports: dict[str, float] = {}
    count = 0
    while shop.now < 1900:
        while sum(one.rank < 2 for one in shop.stepper.engine.waiting) < 2 * slots:
            count += 1
            due = None if deadline is None else shop.now + deadline
            shop.ask(f"n{count}", tokens=4, prompt=20, caller=f"{count % callers}", deadline=due)
        if shop.now % 60 == 0 and shop.now < 1600:
            name = f"report{shop.now}"
            reports[name] = shop.now
            shop.ask(name, tokens=5, prompt=40, priority="batch", caller="0")
        shop.step()
        for name, asked in list(reports.items()):
            if shop.stepper.heard[name].reason:
                del reports[name]
            else:
                assert shop.now - asked < 260, name
    assert not reports


# Parking


def test_sequence_is_not_parked_again_and_again() -> None:
    """After `MOST_PARKS` times another batch sequence gives its slot."""
    shop = Shop(slots=2)
    shop.ask("older", tokens=100, priority="batch")
    shop.step()
    shop.ask("younger", tokens=100, priority="batch")
    shop.step()
    parked = []
    for number in range(MOST_PARKS + 3):
        shop.ask(f"alarm{number}", tokens=2, priority="critical")
        shop.step()
        parked += [name for name in ("older", "younger") if name not in shop.running]
        shop.step(4)
        assert shop.running == {"older", "younger"}
    assert parked[:MOST_PARKS] == ["younger"] * MOST_PARKS
    assert parked[MOST_PARKS : 2 * MOST_PARKS] == ["older"] * MOST_PARKS
    assert max(one.parks for one in shop.stepper.engine.running.values()) == MOST_PARKS + 1
    shop.run()
    for name in ("older", "younger"):
        wanted = expected(shop.backend.model, shop.asked[name], shop.backend.context)
        assert shop.stepper.heard[name].text == wanted.text


def test_alarm_has_a_slot_though_all_were_parked_often() -> None:
    """The bound chooses among batch sequences; it does not keep an alarm waiting."""
    shop = Shop()
    shop.ask("report", tokens=60, priority="batch")
    for number in range(MOST_PARKS + 2):
        shop.step(2)
        shop.ask(f"alarm{number}", tokens=1, priority="critical")
        shop.step()
        assert f"alarm{number}" in shop.started
    assert shop.run().count("report") == 1


# Callers


def test_flood_of_one_caller_does_not_hold_up_another() -> None:
    """60 at once, and another's single one: it has the next slot."""
    shop = Shop(slots=2)
    for number in range(60):
        shop.ask(f"a{number}", caller="a")
    shop.step(2)
    shop.ask("b", caller="b")
    order = shop.run()
    assert order.index("b") <= 4
    assert order[:2] == ["a0", "a1"]
    assert [name for name in order if name != "b"] == [f"a{n}" for n in range(60)]


def test_callers_take_turns() -> None:
    """One for each, whatever their numbers; each caller's own in order of arrival."""
    shop = Shop()
    for caller, count in (("a", 5), ("b", 2), ("c", 3)):
        for number in range(count):
            shop.ask(f"{caller}{number}", caller=caller)
    assert shop.run() == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "c2", "a3", "a4"]


def test_priority_comes_before_turns() -> None:
    """A caller's alarm does not wait for the turn of another's report."""
    shop = Shop()
    for number in range(3):
        shop.ask(f"report{number}", caller="a", priority="batch")
        shop.ask(f"chat{number}", caller="b")
    shop.ask("alarm", caller="b", priority="critical")
    assert shop.run() == [
        "alarm",
        *[f"chat{n}" for n in range(3)],
        *[f"report{n}" for n in range(3)],
    ]


def test_short_deadlines_jump_over_own_requests_only() -> None:
    """A caller who names a deadline for each request takes no turn from the others."""
    shop = Shop()
    shop.ask("running", caller="c")
    shop.step()
    for number in range(3):
        shop.ask(f"a{number}", caller="a", deadline=shop.now + 50 - number)
        shop.ask(f"b{number}", caller="b")
    order = shop.run()[1:]
    assert [name for name in order if name[0] == "a"] == ["a2", "a1", "a0"]
    turns = [{order[at][0], order[at + 1][0]} for at in (0, 2, 4)]
    assert turns == [{"a", "b"}] * 3


def test_long_prompts_of_one_caller_leave_room_for_anothers() -> None:
    """Prompts beside each other in slots take turns by caller, not by age."""
    shop = Shop(slots=6, batch=50)
    for number in range(5):
        shop.ask(f"a{number}", tokens=1, prompt=200, caller="a")
    shop.step()
    shop.ask("b", tokens=1, prompt=90, caller="b")
    steps = 0
    while not shop.stepper.heard["b"].ended:
        shop.step()
        steps += 1
    assert steps <= 4
    assert not shop.stepper.heard["a1"].ended
    shop.run()


def test_prompts_of_nobody_in_particular_go_by_age() -> None:
    """Without keys all callers are one."""
    shop = Shop(slots=3, batch=50)
    for name in "abc":
        shop.ask(name, tokens=1, prompt=100)
    ended: list[str] = []
    while len(ended) < 3:
        shop.step()
        ended += [n for n in "abc" if shop.stepper.heard[n].ended and n not in ended]
    assert ended == ["a", "b", "c"]


def test_turns_are_not_saved_up() -> None:
    """A caller that was silent is next, once, and then in turn."""
    turns = Turns()
    for _ in range(100):
        turns.serve("busy")
    order = []
    for _ in range(6):
        caller = min(("busy", "new"), key=turns.place)
        turns.serve(caller)
        order.append(caller)
    assert order == ["new", "busy", "new", "busy", "new", "busy"]


def test_turns_forget_callers_that_have_had_theirs() -> None:
    """Names are not kept forever: a door may see thousands of keys."""
    turns = Turns()
    for number in range(1000):
        turns.serve(f"caller {number}")
        turns.serve("always")
    assert len(turns._ends) < 5
