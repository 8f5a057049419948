"""What a pace does to the engine: fewer begin, nothing that runs is cut, and rest between steps."""

from __future__ import annotations

import pytest
from fake import FakeBackend, FakeModel
from stepping import Stepper, generation
from timed import COPIED, FREE, TimedEngine, copying

from edge.types import Pace, Priority, TokenPrompt


class Shop:
    """An engine that a pace is told to; its clock is stepped by hand."""

    def __init__(self, slots: int = 4, pace: Pace | None = None) -> None:
        self.now = 1000.0
        self.backend = FakeBackend(slots=slots)
        self.stepper = Stepper(self.backend, clock=lambda: self.now)
        self.engine = self.stepper.engine
        self.engine.pacer.pace = pace or Pace()

    def ask(self, name: str, priority: Priority = "normal", prompt: int = 2) -> None:
        tokens = [1 + len(self.stepper.heard) % 200, *[7] * (prompt - 1)]
        asked = generation(TokenPrompt(tokens), name, priority=priority, max_tokens=20)
        self.stepper.submit(asked)

    @property
    def running(self) -> set[str]:
        return set(self.engine.running)


def test_fewer_begin_and_those_that_run_go_on() -> None:
    shop = Shop(slots=4)
    for name in "abcd":
        shop.ask(name)
    shop.stepper.step()
    shop.engine.pacer.pace = Pace(slots=0.5)
    shop.ask("e")
    shop.stepper.step()
    assert shop.running == set("abcd")
    for name in "abc":
        shop.stepper.cancel(name)
    shop.stepper.step()
    assert shop.running == {"d", "e"}
    shop.stepper.run()
    assert all(shop.stepper.heard[name].ended for name in "de")


def test_one_always_runs() -> None:
    shop = Shop(slots=4, pace=Pace(slots=0.1, batch_slots=0.0))
    for name in "ab":
        shop.ask(name, "batch")
    shop.stepper.step()
    assert shop.running == {"a"}
    shop.stepper.run()


def test_batch_sequences_have_their_part_and_others_the_rest() -> None:
    shop = Shop(slots=4, pace=Pace(batch_slots=0.5))
    for name in "abc":
        shop.ask(name, "batch")
    shop.ask("n")
    shop.stepper.step()
    assert shop.running == {"a", "b", "n"}
    shop.stepper.run()


def test_critical_one_begins_where_others_have_to_wait() -> None:
    shop = Shop(slots=4, pace=Pace(slots=0.25))
    shop.ask("a")
    shop.ask("b")
    shop.stepper.step()
    shop.ask("alarm", "critical")
    shop.stepper.step()
    assert shop.running == {"a", "alarm"}
    shop.stepper.run()


def test_prompts_of_batch_work_are_read_in_smaller_pieces() -> None:
    shop = Shop(pace=Pace(batch_chunk=0.25))
    shop.ask("report", "batch", prompt=100)
    shop.stepper.step()
    assert sum(len(chunk.tokens) for chunk in shop.backend.decoded[0]) == shop.backend.batch / 4
    shop.ask("question", prompt=100)
    shop.stepper.step()
    # The urgent one has the step, as far as the report leaves it one.
    chunks = {chunk.slot: len(chunk.tokens) for chunk in shop.backend.decoded[1]}
    assert max(chunks.values()) == shop.backend.batch
    shop.stepper.run()


def test_texts_are_the_same_at_any_pace() -> None:
    slow, fast = Shop(pace=Pace(0.25, 0.0, 0.1, drafts=False)), Shop()
    for shop in (slow, fast):
        for name in "abcdef":
            shop.ask(name, "batch" if name in "ace" else "normal", prompt=40)
        shop.stepper.run()
    for name in "abcdef":
        assert slow.stepper.heard[name].tokens == fast.stepper.heard[name].tokens != []


def test_nothing_is_drafted_where_the_pace_says_so() -> None:
    model = FakeModel()
    stepper = TimedEngine(FakeBackend(model=model), FREE)
    stepper.engine.pacer.pace = Pace(drafts=False)
    heard = stepper.answer(generation(TokenPrompt(copying(model))))
    assert heard.usage is not None
    assert heard.usage.drafted_tokens == 0
    assert heard.text.encode() == bytes(COPIED)


@pytest.mark.parametrize(
    ("running", "seconds"),
    [
        (["batch"], 3.0),
        (["batch", "normal"], 1.0),
        (["normal"], 1.0),
        (["batch", "critical"], 0.0),
        ([], 0.0),
    ],
)
def test_rest_after_a_step_is_that_of_the_most_urgent(
    running: list[Priority], seconds: float
) -> None:
    """A quarter of the time for batch work is three seconds of rest for one of work."""
    shop = Shop(pace=Pace(duty=0.5, batch_duty=0.25))
    for number, priority in enumerate(running):
        shop.ask(str(number), priority)
    shop.engine.pacer.worked(1.0, shop.now)
    assert shop.engine.rest == seconds
    shop.now += 2.5
    assert shop.engine.rest == max(0.0, seconds - 2.5)


def test_step_tells_how_long_it_took() -> None:
    """Of an idle engine, and at full pace, there is no rest."""
    shop = Shop(pace=Pace(batch_duty=0.001))
    shop.ask("a", "batch")
    assert shop.engine.rest == 0.0
    shop.stepper.step()
    assert shop.engine.rest > 0.0
    shop.engine.pacer.pace = Pace()
    assert shop.engine.rest == 0.0
