"""Thousands of requests in random order: every text is the one it would be alone."""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pytest
from fake import BYTES_PER_TOKEN, FakeBackend, FakeModel, expected
from guessing import Guesser
from second_model import Careless, Imitator, SecondBackend, second
from stepping import Stepper

from edge.engine.drafts import Drafter
from edge.engine.slots import common_prefix
from edge.types import Generation, Sampling, TokenPrompt


def prompt_of(request: Generation) -> list[int]:
    assert isinstance(request.prompt, TokenPrompt)
    return request.prompt.tokens


STOPS = ["ab", "bca", "é", "😀", ". ", " 日"]


def namespace(request: Generation) -> str:
    return "shared" if request.shared_prefix else request.caller


class Crowd:
    """Random clients of one engine; some share long prefixes, some leave, some come back."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        slots = self.random.randint(1, 7)
        self.backend = FakeBackend(
            slots=slots,
            context=self.random.choice([100, 230, 400]),
            batch=self.random.randint(slots, 128),
            can_truncate=self.random.random() < 0.85,
            window=self.random.random() < 0.3,
            model=FakeModel(),
        )
        if self.random.random() < 0.5:
            self.backend.fails = lambda: self.random.random() < 0.1
        # From nothing over a few prefixes, evicted all the time, to all of them.
        kept = self.random.choice([0, 150, 500, 2000, 100_000]) * BYTES_PER_TOKEN
        self.now = 0.0
        self.stepper = Stepper(
            self.backend,
            clock=lambda: self.now,
            drafter=self.drafter(seed),
            kept_bytes=kept,
        )
        families = [
            [self.random.randrange(1, 250) for _ in range(self.random.choice([5, 70, 140, 200]))]
            for _ in range(4)
        ]
        self.families = [family[: self.backend.context - 30] for family in families]
        self.requests: dict[str, Generation] = {}
        self.sent_before: dict[str, str] = {}
        self.asked = 0
        self.asked_by: defaultdict[str, list[list[int]]] = defaultdict(list)

    def drafter(self, seed: int) -> Drafter | None:
        """Nobody, one that knows the model, or a second model that is right now and then."""
        pick = random.Random(seed)
        if seed % 3 == 0:
            return None
        if seed % 3 == 1:
            return Guesser(self.backend.model, pick)
        second_backend = SecondBackend(
            Imitator(self.backend.model, pick.choice([0, 50, 90, 100])),
            slots=self.backend.slots,
            context=pick.choice([80, self.backend.context, 500]),
            batch=pick.randint(self.backend.slots, 128),
        )
        return Careless(second(second_backend), second_backend, pick)

    def ask(self) -> None:
        pick = self.random
        family = pick.choice(self.families)
        prompt = family[: pick.choice([len(family), pick.randint(1, len(family))])]
        prompt += [pick.randrange(1, 250) for _ in range(pick.randint(1, 20))]
        self.asked += 1
        request = Generation(
            id=f"{self.asked}",
            prompt=TokenPrompt(prompt),
            sampling=Sampling(temperature=0)
            if pick.random() < 0.6
            else Sampling(seed=pick.randrange(9)),
            max_tokens=pick.choice([None, 1, 5, 20]),
            stop=pick.sample(STOPS, pick.randint(0, 3)),
            ignore_eos=pick.random() < 0.2,
            logprobs=pick.choice([None, None, 1]),
            priority=pick.choice(["critical", "normal", "batch"]),
            caller=pick.choice(["a", "a", "b"]),
            shared_prefix=pick.random() < 0.2,
            deadline=pick.choice([None, None, None, self.now + pick.uniform(0, 60)]),
        )
        self.submit(request)

    def submit(self, request: Generation) -> None:
        self.requests[request.id] = request
        self.asked_by[namespace(request)].append(prompt_of(request))
        self.stepper.submit(request)

    def leave(self) -> None:
        """Somebody who waits or runs is cancelled, and may come back for the rest."""
        open_ids = [name for name, heard in self.stepper.heard.items() if not heard.ended]
        if not open_ids:
            return
        name = self.random.choice(open_ids)
        heard, request = self.stepper.heard[name], self.requests.pop(name)
        self.stepper.cancel(name)
        if self.random.random() < 0.5:
            resumed = msgspec.structs.replace(
                request, id=f"{name}+", resume=[*request.resume, *heard.tokens]
            )
            self.sent_before[resumed.id] = self.sent_before.pop(name, "") + heard.text
            self.submit(resumed)

    def check(self) -> None:
        for name, heard in self.stepper.heard.items():
            request = self.requests[name]
            wanted = expected(self.backend.model, request, self.backend.context)
            if heard.failure:
                assert request.deadline is not None
                assert request.deadline <= self.now
                assert wanted.text.startswith(self.sent_before.get(name, "") + heard.text)
                continue
            assert self.sent_before.get(name, "") + heard.text == wanted.text
            assert [*request.resume, *heard.tokens] == wanted.tokens
            assert heard.reason == wanted.reason
            assert heard.usage is not None
            assert heard.usage.cached_tokens == heard.cached < heard.usage.prompt_tokens
            self.check_isolation(name, heard.cached)

    def check_isolation(self, name: str, cached: int) -> None:
        """No more of a prompt was there already than the same caller has asked for, or any that
        shares, of a prompt that is to be shared."""
        request = self.requests[name]
        own = [*self.asked_by[namespace(request)]]
        own.remove(prompt_of(request))
        longest = max((common_prefix(one, prompt_of(request)) for one in own), default=0)
        assert cached <= longest


@pytest.mark.parametrize("seed", range(90))
def test_everyone_gets_their_own_text(seed: int) -> None:
    """Interleaved at random, with leavers, returners and drafts, all texts are as if alone."""
    crowd = Crowd(seed)
    while crowd.asked < 60 or not crowd.stepper.engine.idle:
        roll = crowd.random.random()
        if roll < 0.3 and crowd.asked < 60:
            for _ in range(crowd.random.randint(1, 6)):
                crowd.ask()
        elif roll < 0.38:
            crowd.leave()
        else:
            crowd.stepper.step()
            crowd.now += 1
    crowd.check()
    stats = crowd.stepper.engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
