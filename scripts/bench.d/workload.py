"""What the benchmarks ask: prompts of a known size that no cache has seen."""

from __future__ import annotations

import random

SUBJECTS = ("pump", "valve", "motor", "sensor", "conveyor", "boiler", "press", "robot", "mixer")
FACTS = ("pressure", "speed", "current", "torque", "level", "flow", "noise", "temperature")


def short_prompts(count: int, seed: int) -> list[str]:
    """`count` different questions of about 40 tokens, 72 with SmolLM2's chat template."""
    source = random.Random(seed)
    return [
        f"Report {source.randrange(10**6)}: the {source.choice(SUBJECTS)} shows a "
        f"{source.choice(FACTS)} of {source.randrange(1000)} and the "
        f"{source.choice(SUBJECTS)} a {source.choice(FACTS)} of {source.randrange(1000)}. "
        "Explain what the operator should check first, and why."
        for _ in range(count)
    ]


def long_prompt(tokens: int, seed: int) -> str:
    """A text of about that many tokens: with SmolLM2, 1.03 for each of these words."""
    source = random.Random(seed)
    return " ".join(source.choice(SUBJECTS + FACTS) for _ in range(int(tokens / 1.03)))
