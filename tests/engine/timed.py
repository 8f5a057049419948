"""An engine over the fake backend whose steps take the time of a machine."""

from __future__ import annotations

from collections.abc import Callable

from fake import FakeBackend, FakeModel
from stepping import Stepper

from edge.engine.draft_model import DraftModel
from edge.engine.drafts import Drafter

Machine = Callable[[int, int], float]
"""Seconds of a step with so many generating sequences and drafted tokens."""

FREE: Machine = lambda sequences, drafted: 0.02 + 1e-5 * (sequences + drafted)  # noqa: E731
HALF: Machine = lambda sequences, drafted: 0.02 + 0.02 * (sequences + drafted)  # noqa: E731
DEAR: Machine = lambda sequences, drafted: 0.02 * (sequences + drafted)  # noqa: E731
ENTRY: Machine = lambda _, drafted: 0.03 + (drafted > 0) * 0.02 + 0.001 * drafted  # noqa: E731
"""Drafts cost something once, whatever their length."""


class TimedEngine(Stepper):
    """Its steps take what a machine would take for them."""

    def __init__(
        self, backend: FakeBackend, machine: Machine, second: DraftModel | None = None
    ) -> None:
        drafter = Drafter(second)
        super().__init__(backend, drafter=drafter)
        observe = drafter.observe
        drafter.observe = (  # type: ignore[method-assign]
            lambda sequences, drafted, _: observe(sequences, drafted, machine(sequences, drafted))
        )


COPIED = [*b"The pump was stopped at noon, and the filter was changed after that. "]


def copying(model: FakeModel, name: str = "a") -> list[int]:
    """A prompt whose answer repeats it."""
    prompt = [*COPIED, *name.encode()]
    model.script(prompt, bytes(COPIED))
    return prompt
