"""Watts and joules over a clock that the test moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.host.power import Power, PowerMeter
from edge.host.smi import Card
from edge.types import Energy


class Machine:
    """One rail at 10 V, or one processor package, on a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 100.0
        self.cards: list[Card] | None = None
        self.meter = PowerMeter(root, lambda: self.cards, lambda: self.now)

    def draw(self, amperes: float | None) -> None:
        chip = self.root / "sys/class/hwmon/hwmon0"
        chip.mkdir(parents=True, exist_ok=True)
        (chip / "name").write_text("ina3221\n")
        (chip / "in1_label").write_text("VDD_IN\n")
        (chip / "in1_input").write_text("10000\n")
        (chip / "curr1_input").write_text("" if amperes is None else f"{amperes * 1000:.0f}\n")

    def count(self, joules: float, span: float = 1000.0) -> None:
        package = self.root / "sys/class/powercap/intel-rapl:0"
        package.mkdir(parents=True, exist_ok=True)
        (package / "name").write_text("package-0\n")
        (package / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
        (package / "max_energy_range_uj").write_text(f"{span * 1e6:.0f}\n")

    def sample(self, after: float = 0.0) -> Power:
        self.now += after
        power = self.meter.sample()
        assert power is not None
        return power


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_watts_hold_for_the_time_since_the_last_sample(machine: Machine) -> None:
    """30 W after 2 s are 60 J whatever it was before, and 10 W after another second 10 more."""
    machine.draw(1)
    assert machine.sample().joules == 0
    assert machine.meter.stretch is None
    machine.draw(3)
    assert machine.sample(after=2).joules == pytest.approx(60)
    machine.draw(1)
    power = machine.sample(after=1)
    assert power.joules == pytest.approx(70)
    assert power.rails_joules == pytest.approx(dict.fromkeys(power.rails, 70.0))
    stretch = machine.meter.stretch
    assert stretch is not None
    assert stretch.ended - stretch.began == pytest.approx(1)
    assert stretch.energy.joules == pytest.approx(10)
    assert stretch.energy.rails == pytest.approx(dict.fromkeys(power.rails, 10.0))


def test_sensor_that_vanishes_adds_nothing(machine: Machine) -> None:
    """What was drawn meanwhile is unknown, so the energy is only what was seen."""
    machine.draw(1)
    machine.sample()
    machine.draw(None)
    blind = machine.sample(after=1)
    assert (blind.total, blind.joules) == (None, 0)
    assert machine.meter.stretch is not None
    assert machine.meter.stretch.energy == Energy()
    machine.draw(1)
    assert machine.sample(after=1).joules == pytest.approx(10)


def test_gap_is_left_out(machine: Machine) -> None:
    """The machine slept: nobody knows what it drew."""
    machine.draw(1)
    machine.sample()
    assert machine.sample(after=3600).joules == 0
    assert machine.meter.stretch is not None
    assert machine.meter.stretch.energy == Energy()
    assert machine.sample(after=1).joules == pytest.approx(10)


def test_counter_gives_watts_by_its_difference(machine: Machine) -> None:
    """Unknown at first; then joules a second, also over the counter's end."""
    machine.count(990)
    first = machine.sample()
    assert (first.total, first.joules) == (None, None)
    machine.count(995)
    second = machine.sample(after=2)
    assert second.total == pytest.approx(2.5)
    assert second.joules == pytest.approx(5)
    machine.count(15)  # 5 up to the end, 15 from the start
    third = machine.sample(after=4)
    assert third.total == pytest.approx(5)
    assert third.joules == pytest.approx(25)


def test_card_is_a_rail_of_its_own(machine: Machine) -> None:
    """Processor and card together; where the card does not tell, the whole is unknown."""
    machine.count(0)
    machine.sample()
    machine.count(10)
    machine.cards = [Card("A2000", None, None, 20.0, None)]
    power = machine.sample(after=1)
    assert power.rails == pytest.approx({"package-0": 10, "A2000": 20})
    assert power.total == pytest.approx(30)
    machine.count(20)
    machine.cards = [Card("A2000", None, None, 20.0, None), Card("A2000", None, None, None, None)]
    assert list(machine.sample(after=1).rails) == ["package-0", "A2000", "A2000 1"]
    assert machine.sample(after=1).total is None


def test_machine_that_measures_nothing(machine: Machine) -> None:
    """Has no power to tell, and not none."""
    assert machine.meter.sample() is None
