"""All models that were asked for or are loaded, and all that is in memory. Owned by the `Fleet`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from edge.fleet.model import Model, Resident


class Roster:
    """extra: loaded, and meant by no name. retired: to be stopped when their requests have ended,
    or being stopped."""

    def __init__(self, pinned: Collection[str]) -> None:
        self._pinned = pinned
        self._models: dict[str, Model] = {}
        self.extra: set[Resident] = set()
        self.retired: set[Resident] = set()

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __getitem__(self, name: str) -> Model:
        """What is known of a name; begun with nothing."""
        if name not in self._models:
            self._models[name] = Model(name, pinned=name in self._pinned)
        return self._models[name]

    def known(self, name: str) -> Model | None:
        return self._models.get(name)

    @property
    def settled(self) -> bool:
        """Nothing takes memory but what the models' names mean."""
        return not (self.retired or self.extra or any(model.switching for model in self))

    def residents(self) -> list[Resident]:
        """All that takes memory, is about to, or is on its way out."""
        seated = [model.resident for model in self if model.resident is not None]
        return [*self.retired, *self.extra, *seated]

    def evictable(self) -> Sequence[Model]:
        """Those whose memory others can have, sooner or later."""
        return [model for model in self if model.removable]
