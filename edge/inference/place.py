"""A model as the queue of kept requests sees it: whether there is room for one more."""

from __future__ import annotations

from collections.abc import Callable

from edge.errors import EdgeError
from edge.types import Route


class Place:
    """name: of what running jobs are counted by. room: kept inferences that are taken at once: two
    batches of a loaded model, so that one is ready when the other is computed; one of another,
    which brings it its turn. unavailable: why it cannot be asked now."""

    route: Route = "local"
    reachable = True

    def __init__(
        self, model: str, room: int, at_hand: bool, unavailable: Callable[[], EdgeError | None]
    ) -> None:
        self.name = f"onnx:{model}"
        self.model = model
        self.room = room
        self.at_hand = at_hand
        self.unavailable = unavailable
