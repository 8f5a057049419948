"""Many clients at once get what each would get alone."""

from __future__ import annotations

from daemon_process import Start
from streams import body_for, check_complete, check_same, run_one_by_one, run_streams

CLIENTS, SLOTS = 32, 16
TOPICS = ("a lathe", "a pump", "a valve", "a press", "steam", "copper", "a gear", "an oven")


def test_texts_do_not_depend_on_the_company(start: Start) -> None:
    """32 clients over 16 slots get the texts of one client at a time, apart from near ties."""
    daemon = start(engine__slots=SLOTS).wait_ready()
    prompts = [f"{number}. {TOPICS[number % len(TOPICS)]} is for" for number in range(CLIENTS)]
    bodies = [body_for(prompt, max_tokens=8) for prompt in prompts]
    alone = run_one_by_one(daemon, bodies)
    crowd = run_streams(daemon, bodies)
    ties: list[str] = []
    for body, one, other in zip(bodies, alone, crowd, strict=True):
        check_complete(other, body)
        check_same(one.first, other.first, ties.append)
    assert len(ties) <= CLIENTS // 4, f"so many cannot all be near ties: {ties}"
    books = daemon.wait_idle()
    assert books["free"] + books["resident"] == SLOTS
    assert books["running"] == 0
    assert daemon.stop() == 0
