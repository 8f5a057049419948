"""Random histories against a naive model: the same states, counts, order, places and deliveries."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger import START, TTL, Ledger, new, open_ledger

from edge.errors import QueueFull
from edge.store.intake import Bounds
from edge.store.job import PRIORITIES, STATES

MOST_JOBS, MOST_BYTES = 8, 100
LINES = ("auto", "local")
UNFINISHED = ("queued", "running")


@dataclass
class ModelJob:
    id: str
    age: int
    line: str
    client: str
    priority: int
    deadline: float
    size: int
    owes: bool
    state: str = "queued"
    attempts: int = 0
    finished: float = 0
    due: bool = False

    @property
    def clock(self) -> tuple[str, int]:
        return self.line, self.priority

    @property
    def lane(self) -> tuple[str, int, str]:
        return self.line, self.priority, self.client

    @property
    def rank(self) -> tuple[float, int]:
        return self.deadline, self.age

    def end(self, state: str, now: float) -> None:
        self.state, self.finished, self.due = state, now, self.owes


@dataclass
class Model:
    """The ledger as one would write it without a database: lists, and everything looked through."""

    jobs: list[ModelJob] = field(default_factory=list)
    turns: dict[tuple[str, int, str], int] = field(default_factory=dict)
    now: Counter[tuple[str, int]] = field(default_factory=Counter)
    served: Counter[tuple[str, int]] = field(default_factory=Counter)
    """When each line was served last, as the number of the claim."""

    claims: int = 0
    added: int = 0

    def having(self, *states: str) -> list[ModelJob]:
        return [job for job in self.jobs if job.state in states]

    def line_up(self, job: ModelJob) -> None:
        """A lane that was empty is due after the turn served last, or at its own if later."""
        job.state = "queued"
        if [other.lane for other in self.having("queued")].count(job.lane) == 1:
            self.turns[job.lane] = max(self.turns.get(job.lane, 0), self.now[job.clock] + 1)

    def head(self, lines: Collection[str]) -> ModelJob | None:
        waiting = [job for job in self.having("queued") if job.line in lines]
        heads = {
            clock: min(
                (job for job in waiting if job.clock == clock),
                # The first of a lane is the least of those with its turn.
                key=lambda job: (self.turns[job.lane], *job.rank),
            )
            for clock in {job.clock for job in waiting}
        }
        return min(
            heads.values(),
            key=lambda job: (job.priority, self.served[job.clock], *job.rank),
            default=None,
        )

    def claim(self, now: float, lines: Collection[str]) -> ModelJob | None:
        while job := self.head(lines):
            if job.deadline <= now:
                job.end("expired", now)
                continue
            job.state = "running"
            job.attempts += 1
            self.claims += 1
            self.served[job.clock] = self.claims
            self.now[job.clock] = self.turns[job.lane]
            self.turns[job.lane] += 2
            return job
        return None

    def has_room(self, size: int) -> bool:
        unfinished = self.having(*UNFINISHED)
        return len(unfinished) < MOST_JOBS and sum(j.size for j in unfinished) + size <= MOST_BYTES

    def make_room(self, size: int, now: float) -> bool:
        """Whether there is room now; nothing is dropped if that would not suffice."""
        batch = [job for job in self.having("queued") if job.priority == 2]
        dropped: list[ModelJob] = []
        while not self.has_room(size) and batch:
            dropped.append(batch.pop(0))
            dropped[-1].state = "failed"
        if self.has_room(size):
            for job in dropped:
                job.end("failed", now)
            return True
        for job in dropped:
            job.state = "queued"
        return False

    def order(self, line: str) -> list[str]:
        """The ids of all jobs queued in a line as they would be claimed."""
        copy = Model([replace(job) for job in self.jobs], dict(self.turns), Counter(self.now))
        ids = []
        while job := copy.claim(-1, [line]):
            ids.append(job.id)
        return ids


class History(RuleBasedStateMachine):
    """Each rule does the same to the ledger and to the model, and compares what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model()
        self.time = START
        self.open()

    def open(self) -> None:
        self.stack = AsyncExitStack()
        bounds = Bounds(MOST_JOBS, MOST_BYTES, "drop_oldest_batch")
        opened = open_ledger(Path(self.folder.name) / "jobs.db", bounds)
        self.ledger: Ledger = self.run(self.stack.enter_async_context(opened))
        self.ledger.clock.now = self.time

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()
        self.folder.cleanup()

    def pick(self, data: st.DataObject) -> ModelJob:
        return data.draw(st.sampled_from(self.model.jobs))

    @rule(
        line=st.sampled_from(LINES),
        client=st.sampled_from("abc"),
        priority=st.sampled_from(PRIORITIES),
        wait=st.none() | st.integers(1, 9),
        size=st.integers(1, 40),
        owes=st.booleans(),
    )
    def add(self, line, client, priority, wait, size, owes) -> None:
        deadline = None if wait is None else self.time + wait
        given = new(
            line=line,
            client=client,
            priority=priority,
            deadline=deadline,
            request=bytes(size),
            target=b"" if owes else None,
        )
        fits = self.model.make_room(size, self.time)
        try:
            job = self.run(self.ledger.jobs.add(given))
        except QueueFull:
            assert not fits
            return
        assert fits
        self.model.added += 1
        rank = float("inf") if deadline is None else deadline
        level = PRIORITIES.index(priority)
        mine = ModelJob(job.id, self.model.added, line, client, level, rank, size, owes)
        self.model.jobs.append(mine)
        self.model.line_up(mine)

    @rule(lines=st.sets(st.sampled_from(LINES)))
    def claim(self, lines) -> None:
        job = self.run(self.ledger.jobs.claim(self.time, lines))
        expected = self.model.claim(self.time, lines)
        assert (job and job.id) == (expected and expected.id)
        assert job is None or job.attempts == expected.attempts

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "cancel", "requeue", "undo"]))
    def change(self, data, how) -> None:
        job, jobs = self.pick(data), self.ledger.jobs
        may = job.state == "running" or (how == "cancel" and job.state == "queued")
        calls = {
            "finish": lambda: jobs.finish(job.id, b"result"),
            "fail": lambda: jobs.fail(job.id, "code", "message"),
            "cancel": lambda: jobs.cancel(job.id),
            "requeue": lambda: jobs.requeue(job.id, counted=True),
            "undo": lambda: jobs.requeue(job.id, counted=False),
        }
        assert self.run(calls[how]()) == may
        if may and how in ("requeue", "undo"):
            job.attempts -= how == "undo"
            self.model.line_up(job)
        elif may:
            ends = {"finish": "done", "fail": "failed", "cancel": "cancelled"}
            job.end(ends[how], self.time)

    @precondition(lambda self: self.model.having("failed"))
    @rule(data=st.data())
    def retry(self, data) -> None:
        job = data.draw(st.sampled_from(self.model.having("failed")))
        fits = self.model.make_room(job.size, self.time)
        try:
            assert self.run(self.ledger.jobs.retry(job.id))
        except QueueFull:
            assert not fits
            return
        assert fits
        job.attempts = 0
        job.due = False
        if job.deadline <= self.time:
            job.deadline = float("inf")
        self.model.line_up(job)

    @precondition(lambda self: any(job.due for job in self.model.jobs))
    @rule(data=st.data(), sent=st.booleans())
    def deliver(self, data, sent) -> None:
        job = data.draw(st.sampled_from([job for job in self.model.jobs if job.due]))
        deliveries = self.ledger.deliveries
        call = deliveries.delivered(job.id) if sent else deliveries.failed(job.id, self.time)
        assert self.run(call)
        job.due = not sent

    @rule(seconds=st.sampled_from([1, 5, TTL]))
    def time_passes(self, seconds) -> None:
        self.time += seconds
        self.ledger.clock.now = self.time
        expired = self.run(self.ledger.jobs.expire(self.time))
        late = [job for job in self.model.having(*UNFINISHED) if job.deadline <= self.time]
        for job in late:
            job.end("expired", self.time)
        assert set(expired.ids) == {job.id for job in late}
        gone = [
            job
            for job in self.model.jobs
            if job.state not in UNFINISHED and not job.due and job.finished <= self.time - TTL
        ]
        assert expired.removed == len(gone)
        self.model.jobs = [job for job in self.model.jobs if job not in gone]

    @rule()
    def restart(self) -> None:
        self.run(self.stack.aclose())
        self.open()
        running = self.model.having("running")
        assert self.run(self.ledger.jobs.requeue_running()) == len(running)
        # In order of age, as the ledger does, since each may bring its lane back.
        for job in running:
            self.model.line_up(job)

    @invariant()
    def states_are_the_same(self) -> None:
        listed = self.run(self.ledger.jobs.list())
        assert {(j.id, j.state, j.attempts) for j in listed} == {
            (j.id, j.state, j.attempts) for j in self.model.jobs
        }

    @invariant()
    def counts_are_the_same(self) -> None:
        counts = self.run(self.ledger.jobs.counts())
        assert counts.jobs == {state: len(self.model.having(state)) for state in STATES}
        assert counts.unfinished_bytes == sum(j.size for j in self.model.having(*UNFINISHED))

    @invariant()
    def places_are_the_same(self) -> None:
        for line in LINES:
            for place, id_ in enumerate(self.model.order(line), start=1):
                assert self.run(self.ledger.jobs.position(id_)) == place

    @invariant()
    def lines_are_the_same(self) -> None:
        waiting = Counter(job.line for job in self.model.having("queued"))
        assert self.run(self.ledger.jobs.lines()) == waiting

    @invariant()
    def deliveries_are_the_same(self) -> None:
        due = self.run(self.ledger.deliveries.due("mqtt", self.time))
        assert {delivery.id for delivery in due} == {job.id for job in self.model.jobs if job.due}
        assert all((d.result == b"result") == (d.state == "done") for d in due)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
