"""Energy shared out to requests: by hand, and with random schedules whose books have to balance."""

from __future__ import annotations

import random

import pytest

from edge.energy.accountant import BLIND_SECONDS, PATIENCE_SECONDS, Accountant, Bill, Stretch
from edge.types import Energy, Span


class Watching:
    """An accountant, and all that it says. credits: by the caller of the bill."""

    def __init__(self) -> None:
        self.accountant = accountant = Accountant()
        self.credits: dict[str, Energy] = {}
        self.bills: dict[str, Bill] = {}
        self.busy: list[bool] = []
        accountant.busy = self.busy.append
        accountant.credited = self.credit
        accountant.ended = self.end

    def credit(self, bill: Bill, energy: Energy) -> None:
        before = self.credits.get(bill.caller)
        self.credits[bill.caller] = energy if before is None else before.plus(energy)

    def end(self, bill: Bill) -> None:
        assert bill.caller not in self.bills, "ended twice"
        self.bills[bill.caller] = bill

    def measure(self, began: float, ended: float, watts: float | None) -> None:
        """A module of two rails, of which one takes a quarter."""
        energy = Energy()
        if watts is not None:
            energy = Energy(watts, {"cpu": watts / 4, "gpu": watts * 3 / 4}).times(ended - began)
        self.accountant.measured(Stretch(began, ended, energy))


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_step_is_shared_by_tokens_and_idle_time_is_nobodys(watching: Watching) -> None:
    """Of ten seconds at 20 W four are computed in: 30 tokens of one request and 10 of another."""
    accountant = watching.accountant
    for number in ("a", "b"):
        accountant.open("llm", number, "m", number, now=0.0)
    watching.measure(0.0, 10.0, 20.0)
    accountant.worked("llm", [Span(1.0, 5.0, {"a": 30, "b": 10})], at=10.0)
    assert watching.credits["a"] == Energy(60.0, {"cpu": 15.0, "gpu": 45.0})
    assert watching.credits["b"] == Energy(20.0, {"cpu": 5.0, "gpu": 15.0})
    assert (accountant.shared, accountant.unshared) == (80.0, 120.0)
    assert watching.bills == {}
    accountant.close("llm", "a", tokens=30)
    accountant.close("llm", "b")
    assert watching.bills["a"].energy == Energy(60.0, {"cpu": 15.0, "gpu": 45.0})
    assert accountant.models["m"].joules == 80.0
    assert accountant.models["m"].joules_per_token == 2.0
    assert watching.busy == [True, False]


def test_sample_waits_for_a_step_that_is_still_computed(watching: Watching) -> None:
    """Another worker's reports do not settle what a long step was in, too."""
    accountant = watching.accountant
    watching.measure(-1.0, 0.0, 10.0)
    accountant.open("long", "a", "m", "a", now=0.0)
    accountant.open("short", "b", "m", "b", now=0.0)
    for second in range(4):
        watching.measure(second, second + 1.0, 10.0)
        accountant.worked("short", [Span(second, second + 1.0, {"b": 1})], at=second + 1.0)
    assert watching.credits == {}
    accountant.worked("long", [Span(0.0, 4.0, {"a": 100})], at=4.0)
    assert watching.credits["a"].joules == watching.credits["b"].joules == 20.0


def test_step_without_end_does_not_hold_the_books_for_ever(watching: Watching) -> None:
    """It has computed for longer than is waited: what it took is then not known."""
    accountant = watching.accountant
    accountant.open("long", "a", "m", "a", now=0.0)
    for second in range(int(PATIENCE_SECONDS) + 10):
        watching.measure(second, second + 1.0, 10.0)
    assert accountant.unshared == pytest.approx(100.0)
    end = PATIENCE_SECONDS + 10
    accountant.worked("long", [Span(0.0, end, {"a": 1})], at=end)
    accountant.close("long", "a")
    assert accountant.shared + accountant.unshared == pytest.approx(10.0 * end)
    assert watching.bills["a"].energy == Energy()


def test_estimate_before_the_next_sample(watching: Watching) -> None:
    """The seconds of which no sample tells yet count with the power that computing was seen to
    take; what the next sample says then is what is billed."""
    accountant = watching.accountant
    watching.measure(-1.0, 0.0, 5.0)
    accountant.open("llm", "a", "m", "a", now=0.0)
    accountant.worked("llm", [Span(0.0, 0.5, {"a": 1})], at=0.5)
    assert accountant.estimate("llm", "a").joules == 2.5  # nothing better is known
    watching.measure(0.0, 1.0, 30.0)
    accountant.worked("llm", [Span(0.5, 1.0, {"a": 1})], at=1.0)
    watching.measure(1.0, 1.25, 6.0)  # idle again
    accountant.worked("llm", [Span(1.25, 1.75, {"a": 1})], at=1.75)
    accountant.close("llm", "a")
    assert watching.bills == {}
    watching.measure(1.25, 2.25, 40.0)
    assert watching.bills["a"].energy == Energy(50.0, {"cpu": 12.5, "gpu": 37.5})


def test_estimate_uses_what_computing_took(watching: Watching) -> None:
    """An idle machine's last sample says nothing about a request that has just begun."""
    accountant = watching.accountant
    accountant.open("llm", "a", "m", "a", now=0.0)
    accountant.worked("llm", [Span(0.0, 1.0, {"a": 1})], at=1.0)
    watching.measure(0.0, 1.0, 30.0)
    accountant.close("llm", "a")
    watching.measure(1.0, 2.0, 5.0)
    accountant.open("llm", "b", "m", "b", now=2.0)
    accountant.worked("llm", [Span(2.0, 2.5, {"b": 1})], at=2.5)
    # The first one's computation was told before anything was measured.
    assert watching.bills["a"].energy == Energy()
    assert accountant.estimate("llm", "b").joules == 2.5
    accountant.worked("llm", [Span(2.5, 3.0, {"b": 1})], at=3.0)
    watching.measure(2.0, 3.0, 30.0)
    watching.measure(3.0, 4.0, 5.0)
    accountant.worked("llm", [Span(4.0, 4.5, {"b": 1})], at=4.5)
    assert accountant.estimate("llm", "b").joules == pytest.approx(30.0 + 0.5 * 30.0)


def test_unknown_power_is_unknown_energy(watching: Watching) -> None:
    """Of what nothing is measured, or of a part of it; never 0."""
    accountant = watching.accountant
    accountant.open("llm", "a", "m", "a", now=0.0)
    accountant.worked("llm", [Span(0.0, 1.0, {"a": 1})], at=1.0)
    assert accountant.estimate("llm", "a") == Energy()
    accountant.close("llm", "a")
    assert watching.bills["a"].energy == Energy()
    assert not accountant.known

    accountant.open("llm", "b", "m", "b", now=1.0)
    watching.measure(1.0, 2.0, 10.0)
    watching.measure(2.0, 3.0, None)
    accountant.worked("llm", [Span(1.0, 3.0, {"b": 1})], at=3.0)
    assert accountant.estimate("llm", "b") == Energy()
    accountant.close("llm", "b", tokens=3)
    assert watching.bills["b"].energy == Energy()
    # The books tell what was seen of it.
    assert accountant.models["m"].joules == accountant.shared == 10.0
    assert accountant.models["m"].joules_per_token is None


def test_rail_that_is_lost_is_left_out(watching: Watching) -> None:
    """The others and the whole are known all the same."""
    accountant = watching.accountant
    accountant.open("llm", "a", "m", "a", now=0.0)
    accountant.measured(Stretch(0.0, 1.0, Energy(10.0, {"cpu": 4.0, "gpu": 6.0})))
    accountant.measured(Stretch(1.0, 2.0, Energy(10.0, {"cpu": 4.0})))
    accountant.worked("llm", [Span(0.0, 2.0, {"a": 1})], at=2.0)
    assert accountant.estimate("llm", "a") == Energy(20.0, {"cpu": 8.0})


def test_nothing_is_kept_of_a_machine_that_stops_measuring(watching: Watching) -> None:
    """Computations that no sample will tell of are not collected, and their bills end."""
    accountant = watching.accountant
    watching.measure(0.0, 1.0, 10.0)
    accountant.open("llm", "a", "m", "a", now=1.0)
    accountant.worked("llm", [Span(1.0, 2.0, {"a": 1})], at=2.0)
    accountant.close("llm", "a")
    accountant.open("llm", "b", "m", "b", now=2.0)
    assert "a" not in watching.bills
    late = 2.0 + BLIND_SECONDS
    accountant.worked("llm", [Span(late, late + 1, {"b": 1})], at=late + 1)
    assert watching.bills["a"].energy == Energy()
    assert accountant.estimate("llm", "b") == Energy()


def test_request_that_is_given_up_pays_for_the_step_it_was_in(watching: Watching) -> None:
    """It is told later, when nobody waits for the request any more."""
    accountant = watching.accountant
    watching.measure(0.0, 1.0, 10.0)
    accountant.open("llm", "a", "m", "a", now=1.0)
    accountant.close("llm", "a", now=1.5)
    watching.measure(1.0, 3.0, 10.0)
    assert watching.bills == {}
    accountant.worked("llm", [Span(1.0, 3.0, {"a": 500})], at=3.0)
    assert watching.bills["a"].energy == Energy(20.0, {"cpu": 5.0, "gpu": 15.0})


def test_worker_that_dies_takes_what_it_did_not_tell(watching: Watching) -> None:
    """What it computed is nobody's; a request that goes on elsewhere keeps its bill."""
    accountant = watching.accountant
    watching.measure(0.0, 1.0, 10.0)
    for number in ("a", "b"):
        accountant.open("llm", number, "m", number, now=1.0)
    watching.measure(1.0, 2.0, 10.0)
    accountant.worked("llm", [Span(1.0, 2.0, {"a": 1, "b": 1})], at=2.0)
    watching.measure(2.0, 4.0, 10.0)
    accountant.lost("llm", still=["a"], now=4.0)
    assert watching.bills["b"].energy == Energy(5.0, {"cpu": 1.25, "gpu": 3.75})
    assert accountant.unshared == 10.0 + 20.0
    watching.measure(4.0, 5.0, 10.0)  # nothing computes, and nobody is waited for
    assert accountant.unshared == 40.0
    accountant.open("llm", "a", "m", "a", now=5.0)
    watching.measure(5.0, 6.0, 10.0)
    accountant.worked("llm", [Span(5.0, 6.0, {"a": 1})], at=6.0)
    accountant.close("llm", "a")
    assert watching.bills["a"].energy == Energy(15.0, {"cpu": 3.75, "gpu": 11.25})


@pytest.mark.parametrize("seed", range(40))
def test_books_balance_whatever_happens(watching: Watching, seed: int) -> None:
    """Workers that step side by side, samples at other times, requests that come, end, are given up
    and lose their worker: what they were billed and what was left is what was measured, in all and
    by rail, and every request gets one bill."""
    play = random.Random(seed)
    accountant, now, measured_at = watching.accountant, 0.0, 0.0
    measured = {"all": 0.0, "cpu": 0.0, "gpu": 0.0}
    computing: dict[str, tuple[float, float, dict[str, int]]] = {}
    live: dict[str, set[str]] = {"small": set(), "large": set(), "onnx": set()}
    paces = {"small": 0.02, "large": 3.0, "onnx": 0.2}
    count = 0
    for _ in range(400):
        now += play.expovariate(10.0)
        if play.random() < 0.3:
            watts = play.uniform(5, 60)
            watching.measure(measured_at, now, watts)
            for rail, part in (("all", 1), ("cpu", 1 / 4), ("gpu", 3 / 4)):
                measured[rail] += watts * part * (now - measured_at)
            measured_at = now
        for source, running in live.items():
            if source in computing and computing[source][1] <= now:
                began, ended, rows = computing.pop(source)
                accountant.worked(source, [Span(began, ended, rows)], at=ended)
                for number in [one for one in running if play.random() < 0.2]:
                    accountant.close(source, number, tokens=play.randrange(3))
                    running.discard(number)
            if running and play.random() < 0.05:
                gone = play.choice(sorted(running))
                accountant.close(source, gone, now=now)
                running.discard(gone)
            if running and play.random() < 0.02:
                computing.pop(source, None)
                stay = {number for number in running if play.random() < 0.5}
                accountant.lost(source, stay, now)
                live[source] = running = stay
                for number in sorted(stay):
                    accountant.open(source, number, source, number, now)
            if play.random() < 0.2:
                count += 1
                accountant.open(source, f"{count}", source, f"{count}", now)
                running.add(f"{count}")
            if running and source not in computing:
                rows = {number: play.randrange(1, 50) for number in running}
                computing[source] = (now, now + paces[source] * play.random(), rows)
    for source, running in live.items():
        for number in sorted(running):
            accountant.close(source, number)
        accountant.lost(source, [], now)
    end = now + 10
    watching.measure(measured_at, end, 8.0)
    for rail, part in (("all", 1), ("cpu", 1 / 4), ("gpu", 3 / 4)):
        measured[rail] += 8.0 * part * (end - measured_at)
    assert count > 30
    assert set(watching.bills) == {f"{number}" for number in range(1, count + 1)}
    billed = sum(credit.joules or 0 for credit in watching.credits.values())
    assert 0 < billed < measured["all"]
    assert billed == pytest.approx(accountant.shared)
    assert sum(one.joules for one in accountant.models.values()) == pytest.approx(billed)
    assert billed + accountant.unshared == pytest.approx(measured["all"])
    for rail, part in (("cpu", 1 / 4), ("gpu", 3 / 4)):
        known = sum(credit.rails[rail] for credit in watching.credits.values())
        assert known == pytest.approx(billed * part)
    for caller, bill in watching.bills.items():
        if bill.energy is not None and bill.energy.joules is not None:
            credit = watching.credits.get(caller, Energy(0.0))
            assert bill.energy.joules == pytest.approx(credit.joules)
    assert watching.busy[-1] is False
    assert accountant._works == []  # nothing piles up
