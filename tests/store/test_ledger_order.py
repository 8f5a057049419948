"""Who is next: priority, turns between clients, deadline, age; and the place in the queue."""

from __future__ import annotations

import sqlite3

from ledger import START, Ledger, new

from edge.store.queue import claim


async def order(ledger: Ledger) -> list[str]:
    """The kinds of all queued jobs in the order in which they are claimed."""
    kinds = []
    while job := await ledger.jobs.claim(ledger.clock.now):
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


async def test_claims_use_the_indexes(ledger: Ledger) -> None:
    """No statement of a claim scans or sorts, so that its cost does not grow with the queue."""
    plans: list[str] = []
    await add(ledger, "a", "b")

    def trace(connection: sqlite3.Connection) -> None:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        claim(connection, START)
        connection.set_trace_callback(None)
        for statement in statements:
            if statement.startswith(("SELECT", "UPDATE", "DELETE", " ")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                plans.extend(row[3] for row in rows)

    await ledger.database.write(trace)
    assert any("lanes_by_turn" in plan for plan in plans)
    # The first entry of an index, or a key in it; nothing is gone through from end to end.
    scans = [p for p in plans if p.startswith("SCAN") and "lanes_by_turn" not in p]
    assert scans == []
    assert [p for p in plans if "TEMP B-TREE" in p] == []
