"""Who is next: priority, turns between clients, deadline, age; and the place in the queue."""

from __future__ import annotations

import sqlite3

from ledger import LINE, START, Ledger, new

from edge.store.queue import claim, waiting


async def order(ledger: Ledger, *lines: str) -> list[str]:
    """The kinds of all jobs queued in these lines, in the order in which they are claimed."""
    lines = lines or (LINE,)
    kinds = []
    while job := await ledger.jobs.claim(ledger.clock.now, lines):
        kinds.append(job.kind)
    return kinds


async def add(ledger: Ledger, *kinds: str, **wanted: object) -> None:
    for kind in kinds:
        await ledger.jobs.add(new(kind=kind, **wanted))


async def test_priority_then_deadline_then_age(ledger: Ledger) -> None:
    """For one client."""
    await add(ledger, "b", priority="batch", deadline=START + 1)
    await add(ledger, "n1", "n2")
    await add(ledger, "n late", deadline=START + 90)
    await add(ledger, "n soon", deadline=START + 9)
    await add(ledger, "c1", "c2", priority="critical")
    assert await order(ledger) == ["c1", "c2", "n soon", "n late", "n1", "n2", "b"]


async def test_deadline_and_age_between_clients(ledger: Ledger) -> None:
    """Clients that were not served lately are equal: the deadline decides, then the age."""
    await add(ledger, "a", client="a")
    await add(ledger, "b", client="b", deadline=START + 9)
    await add(ledger, "c", client="c")
    await add(ledger, "d", client="d", deadline=START + 5)
    assert await order(ledger) == ["d", "b", "a", "c"]


async def test_clients_take_turns(ledger: Ledger) -> None:
    """A client with many jobs, deadlines or not, does not hold up the others."""
    await add(ledger, "a1", "a2", "a3", "a4", client="a", deadline=START + 1)
    await add(ledger, "b1", "b2", client="b")
    await add(ledger, "c1", client="c")
    assert await order(ledger) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_one_who_comes_later_is_next(ledger: Ledger) -> None:
    """A flood that is being worked off makes way at once for a client that has nothing running."""
    await add(ledger, *(f"a{n}" for n in range(10)), client="a")
    assert [(await ledger.claim()).kind for _ in range(5)] == ["a0", "a1", "a2", "a3", "a4"]
    await add(ledger, "b0", "b1", "b2", client="b")
    assert (await order(ledger))[:6] == ["b0", "a5", "b1", "a6", "b2", "a7"]


async def test_asking_one_by_one_gains_nothing(ledger: Ledger) -> None:
    """A client that sends its next job when the last was claimed gets its share, not more."""
    await add(ledger, *(f"a{n}" for n in range(20)), client="a")
    served = []
    await add(ledger, "b", client="b")
    for _ in range(12):
        served.append((await ledger.claim()).client)
        if served[-1] == "b":
            await add(ledger, "b", client="b")
    assert abs(served.count("a") - served.count("b")) <= 1


async def test_ever_new_clients_do_not_starve_an_old_one(ledger: Ledger) -> None:
    """Reply topics that are used once each come as fast as jobs are done: `a` still goes on."""
    await add(ledger, *(f"a{n}" for n in range(30)), client="a")
    served = []
    for number in range(40):
        await add(ledger, "x", client=f"once/{number}")
        served.append((await ledger.claim()).client)
    # Its share shrinks with the number of those that wait, and is never nothing.
    assert served[:20].count("a") >= 3
    assert served[20:].count("a") >= 1


async def test_turns_are_kept_over_priorities(ledger: Ledger) -> None:
    """Each priority has its own turns; the more urgent one always goes first."""
    await add(ledger, "a1", "a2", client="a", priority="batch")
    assert (await ledger.claim()).kind == "a1"
    await add(ledger, "b", client="b", priority="batch")
    await add(ledger, "a critical", client="a", priority="critical")
    assert await order(ledger) == ["a critical", "b", "a2"]


async def test_only_the_lines_asked_for(ledger: Ledger) -> None:
    """What waits for one upstream neither comes to another nor holds it up, however urgent."""
    await add(ledger, "cloud", line="auto chat", priority="critical", deadline=START + 5)
    await add(ledger, "local", priority="batch")
    assert await order(ledger) == ["local"]
    assert await order(ledger, "nobody's") == []
    assert await ledger.jobs.claim(START, []) is None
    assert await ledger.jobs.lines() == {"auto chat": 1}
    assert await order(ledger, "auto chat") == ["cloud"]
    assert await ledger.jobs.lines() == {}


async def test_several_lines_at_once(ledger: Ledger) -> None:
    """By priority; lines in turns; those that never had one by their next jobs' deadlines, then
    age."""
    await add(ledger, "a1", "a2", "a3", line="a", client="1")
    await add(ledger, "a4", line="a", client="2")
    await add(ledger, "b1", "b2", line="b")
    await add(ledger, "c1", line="c", deadline=START + 9)
    await add(ledger, "c urgent", line="c", priority="critical")
    wanted = ["c urgent", "c1", "a1", "b1", "a4", "b2", "a2", "a3"]
    assert await order(ledger, "a", "b", "c") == wanted


async def test_a_line_that_comes_back_does_not_push_others_aside(ledger: Ledger) -> None:
    """After a long time without claims it takes turns with the other, neither more nor less."""
    await add(ledger, *(f"b{n}" for n in range(20)), line="b")
    await add(ledger, *(f"a{n}" for n in range(60)), line="a")
    for _ in range(50):
        await ledger.jobs.claim(START, ["a"])
    kinds = [job.kind for _ in range(8) if (job := await ledger.jobs.claim(START, ["a", "b"]))]
    assert kinds == ["b0", "a50", "b1", "a51", "b2", "a52", "b3", "a53"]


async def test_clients_take_turns_within_each_line(ledger: Ledger) -> None:
    """A client that was served a lot in one line is not behind in another."""
    await add(ledger, *(f"x{n}" for n in range(9)), client="x", line="a")
    for _ in range(9):
        await ledger.jobs.claim(START, ["a"])
    await add(ledger, "x9", "x10", client="x", line="b")
    await add(ledger, "y0", "y1", client="y", line="b")
    assert await order(ledger, "b") == ["x9", "y0", "x10", "y1"]


async def test_lines_are_counted(ledger: Ledger) -> None:
    """Through every change of state, over priorities."""
    jobs = [await ledger.jobs.add(new(line="a", priority=p)) for p in ("normal", "batch")]
    await add(ledger, "b", line="b", deadline=START + 1)
    assert await ledger.jobs.lines() == {"a": 2, "b": 1}
    await ledger.jobs.claim(START, ["a"])
    assert await ledger.jobs.lines() == {"a": 1, "b": 1}
    await ledger.jobs.requeue(jobs[0].id, counted=False)
    await ledger.jobs.cancel(jobs[1].id)
    await ledger.jobs.expire(START + 1)
    assert await ledger.jobs.lines() == {"a": 1}
    await ledger.jobs.claim(START, ["a"])
    await ledger.jobs.fail(jobs[0].id, "upstream_error", "no")
    assert await ledger.jobs.lines() == {}
    await ledger.jobs.retry(jobs[0].id)
    assert await ledger.jobs.lines() == {"a": 1}
    assert (await ledger.jobs.get(jobs[0].id)).line == "a"


async def test_counting_lines_reads_no_jobs(ledger: Ledger) -> None:
    """So that it may be asked at every look at the queue."""
    await add(ledger, "a", "b")

    def plan(connection: sqlite3.Connection) -> list[str]:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        waiting(connection)
        connection.set_trace_callback(None)
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
        return [row[3] for row in rows]

    steps = await ledger.database.read(plan)
    assert "SCAN lines" in steps
    assert not any("jobs" in step or "lanes" in step for step in steps)


async def test_empty_lanes_are_forgotten(ledger: Ledger) -> None:
    """Clients that come once leave nothing behind for long."""
    for number in range(200):
        await add(ledger, "x", client=f"once/{number}")
        await ledger.claim()

    def lanes(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM lanes").fetchone()[0])

    assert await ledger.database.read(lanes) < 5


async def test_position(ledger: Ledger) -> None:
    """The place counts what is ahead by priority, turns, deadline and age."""
    await add(ledger, "a1", "a2", "a3", client="a")
    await add(ledger, "b1", "b2", client="b")
    await add(ledger, "c", client="a", priority="critical")
    places = {}
    for job in await ledger.jobs.list():
        places[job.kind] = await ledger.jobs.position(job.id)
    assert places == {"c": 1, "a1": 2, "b1": 3, "a2": 4, "b2": 5, "a3": 6}
    claimed = await ledger.claim()
    assert await ledger.jobs.position(claimed.id) is None


async def test_position_in_its_line(ledger: Ledger) -> None:
    """Jobs of other lines are not counted."""
    await add(ledger, "a1", line="a", priority="critical")
    await add(ledger, "b1", "b2", line="b", client="x")
    await add(ledger, "b3", line="b", client="y")
    await add(ledger, "a2", "a3", line="a", client="x")
    places = {job.kind: await ledger.jobs.position(job.id) for job in await ledger.jobs.list()}
    assert places == {"a1": 1, "a2": 2, "a3": 3, "b1": 1, "b3": 2, "b2": 3}


async def test_claims_use_the_indexes(ledger: Ledger) -> None:
    """No statement of a claim scans, or sorts more than the lines, so that its cost does not grow
    with the queue."""
    plans: list[str] = []
    await add(ledger, "a", "b")
    await add(ledger, "c", line="auto chat")

    def trace(connection: sqlite3.Connection) -> None:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        claim(connection, START, [LINE, "auto chat"], "batch")
        connection.set_trace_callback(None)
        for statement in statements:
            if statement.startswith(("SELECT", "UPDATE", "DELETE", " ")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                plans.extend(row[3] for row in rows)

    await ledger.database.write(trace)
    assert any("lanes_by_turn" in plan for plan in plans)
    # The first entry of an index, or a key in it; nothing is gone through from end to end.
    assert [p for p in plans if p.startswith("SCAN")] == []
    sorts = [p for p in plans if "TEMP B-TREE" in p]
    assert len(sorts) == 1
    assert sorts[0].endswith("ORDER BY")
