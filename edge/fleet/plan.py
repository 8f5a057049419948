"""What is to be done next about who is in memory. Pure: it looks, answers, and does nothing.

Requests are collated by model: one that is loaded and has work keeps its memory for a turn after
another was asked for. Then it takes no new requests, ends those that it has, and makes way. One
that is idle makes way at once, but for a moment in which its caller may come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edge.fleet.model import Model, Resident

LINGER_SECONDS = 1.0
"""Time after a request in which its caller is expected with the next one: without it two callers
who ask two models in turns would have them loaded anew for each request."""

Fits = Callable[[Model, Sequence[Model], bool], bool]
"""(model, without, squeeze): whether it could be loaded if the others were gone. squeeze: also with
less context than it should have."""


class Plan(NamedTuple):
    """At most one of load, unload and refuse. again: when to look again, by the monotonic clock."""

    load: Model | None = None
    squeeze: bool = False
    unload: Model | None = None
    refuse: Model | None = None
    drain: tuple[Model, ...] = ()
    again: float | None = None


def next_step(models: Iterable[Model], now: float, fits: Fits, turn: float) -> Plan:
    """turn: seconds that a busy model has for itself after another was asked for."""
    models = list(models)
    again: list[float] = []
    crowded = False
    for model in _by_turn(models, now):
        if fits(model, (), False):
            # Small ones may pass those that wait for more room, but not for ever.
            if not crowded:
                return Plan(load=model)
            continue
        others = [one for one in models if one.removable]
        step = _make_way(model, others, now, fits, turn)
        if step is None:
            continue
        if step.again is None:
            return step
        again.append(step.again)
        crowded |= now >= _since(model, now) + turn
    return Plan(again=min(again, default=None))


def _by_turn(models: list[Model], now: float) -> list[Model]:
    """Those that are to be loaded: critical requests first, then who has waited longest."""
    wanted = [model for model in models if model.wanted_since(now) is not None]
    return sorted(
        wanted, key=lambda model: (not model.urgent, model.background, _since(model, now))
    )


def _make_way(
    model: Model, others: list[Model], now: float, fits: Fits, turn: float
) -> Plan | None:
    """How others make room. None where nobody can, and nobody has to be told."""
    free = sorted((one for one in others if _idle(one, model, now, turn)), key=_used_at)
    modest = model.start_since is not None and not model.waiters and not model.pinned
    if not modest and (group := _enough(model, free, fits, squeeze=False)):
        return _unload(group)
    if model.background:
        return None
    everybody = [*free, *sorted((one for one in others if one not in free), key=_ready_at)]
    squeeze = False
    group = _enough(model, everybody, fits, squeeze=False)
    if group is None:
        squeeze = True
        group = _enough(model, everybody, fits, squeeze=True)
    if group is None or (modest and group):
        return Plan(refuse=model)
    if not group:
        return Plan(load=model, squeeze=squeeze)
    busy = [one for one in group if one not in free]
    if not busy:
        return _unload(group)
    ends = max(_turn_ends(one, model, now, turn) for one in busy)
    if now >= ends:
        return Plan(drain=tuple(group))
    pauses = [_used_at(one) + LINGER_SECONDS for one in busy if not _resident(one).users]
    return Plan(again=min([ends, *(pause for pause in pauses if pause > now)]))


def _unload(group: list[Model]) -> Plan:
    """One after the other; those that are next take nothing new meanwhile."""
    return Plan(unload=group[0], drain=tuple(group[1:]))


def _enough(
    model: Model, candidates: Sequence[Model], fits: Fits, *, squeeze: bool
) -> list[Model] | None:
    """The first of them whose memory would do, none of them in vain; None if all would not."""
    group: list[Model] = []
    for one in candidates:
        if fits(model, group, squeeze):
            break
        group.append(one)
    if not fits(model, group, squeeze):
        return None
    for one in list(group):
        rest = [other for other in group if other is not one]
        if fits(model, rest, squeeze):
            group = rest
    return group


def _idle(one: Model, model: Model, now: float, turn: float) -> bool:
    """It has nothing to do, and is not expected to have in a moment."""
    if _resident(one).users:
        return False
    return now >= min(_used_at(one) + LINGER_SECONDS, _turn_ends(one, model, now, turn))


def _turn_ends(one: Model, model: Model, now: float, turn: float) -> float:
    """When it has to make way for the model, busy or not."""
    if model.urgent:
        return now
    return max(_since(model, now), _ready_at(one)) + turn


def _since(model: Model, now: float) -> float:
    since = model.wanted_since(now)
    assert since is not None
    return since


def _resident(one: Model) -> Resident:
    assert one.resident is not None
    return one.resident


def _used_at(one: Model) -> float:
    return _resident(one).used_at


def _ready_at(one: Model) -> float:
    return _resident(one).ready_at
