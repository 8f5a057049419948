"""A whole answer from the service's pieces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing

from edge.openai import render
from edge.openai.asked import Asked
from edge.openai.shape import Said
from edge.types import Finished, Part, Usage


async def collect(asked: Asked, heard: Callable[[list[Part]], None] | None = None) -> render.Answer:
    """Read the source to its end; cancelling this closes it, and with it the work.

    heard: is called with the pieces as they come.
    """
    request, shape = asked.request, asked.shape
    # Nothing is set aside for answers that may be refused: a caller can ask for millions.
    said: defaultdict[int, Said] = defaultdict(Said)
    finished: dict[int, Finished] = {}
    async with aclosing(asked.source) as source:
        async for parts in source:
            if heard is not None:
                heard(parts)
            for part in parts:
                if isinstance(part.event, Finished):
                    finished[part.index] = part.event
                else:
                    said[part.index].hear(part.event)
    numbers = range(request.answers)
    usages: list[Usage] = [finished[number].usage for number in numbers]
    answer = render.Answer(
        shape.id,
        shape.whole_object,
        asked.created,
        asked.model,
        [shape.whole(n, said[n], finished[n]) for n in numbers],
        render.usage_body(usages, request.n),
    )
    if request.answers == 1:
        answer.timings = render.timings(usages[0])
    answer.edge = render.origin(asked.trail, usages)
    return answer
