"""One caller's words never reach another, and neither does the fact that they were said.

Every prompt carries a secret that the model is made to repeat. Callers send the same long
beginnings, so that nothing but the namespaces keeps them apart, while requests are cut off, parked
by critical ones and evicted, and the worker is killed. `./scripts/soak isolation` runs this longer.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import pytest
from daemon_process import SLOWER, DaemonProcess, Start
from test_resume import kill_worker

from edge.engine.llama import LlamaVocabulary
from edge.engine.slots import common_prefix

SECONDS = float(os.environ.get("SOAK_ISOLATION_SECONDS", "60"))
LEAST = 10_000 if SECONDS >= 3600 else 40
"""Requests, on a machine that is too slow for that many in the time."""

KILL_EVERY = 90.0
"""Seconds, in the long form: a worker that dies more often is restarted ever later."""

CALLERS, CLIENTS, FAMILIES = 5, 10, 6
DIGITS = 10
WORDS = ("press", "pump", "valve", "motor", "robot", "boiler", "mixer", "sensor", "line", "oven")


class Prompts:
    """What callers say, in tokens: a beginning that all share, and a secret that is one's own."""

    def __init__(self, vocabulary: LlamaVocabulary) -> None:
        self._vocabulary = vocabulary
        chance = random.Random(3)
        self.families = [
            self._tokens(f"Book {number}: " + " ".join(chance.choices(WORDS, k=70 + 12 * number)))
            for number in range(FAMILIES)
        ]
        self.lead = self._tokens(".\nThe secret code of this machine is ")
        self.question = self._tokens(".\nOnce more, the secret code of this machine is ")

    def prompt(self, family: int, secret: str) -> list[int]:
        digits = self._tokens(secret)
        assert len(digits) == DIGITS, "one token for each digit"
        return [*self.families[family], *self.lead, *digits, *self.question]

    def most_cached(self, family: int, digits: int) -> int:
        """Tokens that a prompt can have in common with one of the same family, of whose secret so
        many digits are the same."""
        if digits == DIGITS:
            return len(self.prompt(family, "0" * DIGITS))
        return len(self.families[family]) + len(self.lead) + digits

    def _tokens(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, special=False, bos=False)


class Caller:
    """A namespace, and all that was ever said in it."""

    def __init__(self, name: str) -> None:
        self.headers = {"Authorization": f"Bearer {name}"}
        self.secrets: dict[int, list[str]] = defaultdict(list)

    def shared(self, prompts: Prompts, family: int, secret: str) -> int:
        """The most tokens of a prompt that can have been computed for this caller before."""
        told = self.secrets[family]
        if told:
            return prompts.most_cached(family, max(common_prefix(secret, other) for other in told))
        begin = prompts.families[family]
        others = [prompts.families[other] for other, told in self.secrets.items() if told]
        return max((common_prefix(begin, other) for other in others), default=0)


class Crowd:
    """Clients that ask until the time is up. The books are kept here, outside the daemon."""

    def __init__(self, daemon: DaemonProcess, prompts: Prompts) -> None:
        self.daemon = daemon
        self.prompts = prompts
        self.callers = [Caller(f"caller-{number}") for number in range(CALLERS)]
        self.owner: dict[str, Caller] = {}
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._end = time.monotonic() + SECONDS

    @property
    def over(self) -> bool:
        asked = self.counts["answered"] + self.counts["left in the middle"]
        enough = time.monotonic() > self._end and asked >= LEAST
        return enough or self._failed.is_set()

    def heard(self, client: Future[None]) -> None:
        """A client has ended; where one has found something, the others need not go on."""
        if client.exception() is not None:
            self._failed.set()

    def client(self, number: int) -> None:
        chance = random.Random(number)
        while not self.over:
            caller = chance.choice(self.callers)
            family = chance.randrange(FAMILIES)
            secret, allowed = self._next_secret(chance, caller, family)
            body = {
                "prompt": self.prompts.prompt(family, secret),
                "max_tokens": chance.choice([1, DIGITS + 2, DIGITS + 2, 30]),
                "temperature": 0,
                "edge": {"priority": chance.choice(["critical", *["normal"] * 5, *["batch"] * 4])},
            }
            if chance.random() < 0.15:
                self._leave(caller, body)
            else:
                self._ask(caller, body, secret, allowed)

    def _next_secret(self, chance: random.Random, caller: Caller, family: int) -> tuple[str, int]:
        """A new secret, or one that the caller has told before; and how much of the prompt may be
        there already."""
        with self._lock:
            known = caller.secrets[family]
            again = bool(known) and chance.random() < 0.1
            secret = chance.choice(known) if again else "".join(chance.choices("0123456789", k=10))
            allowed = caller.shared(self.prompts, family, secret)
            self.owner.setdefault(secret, caller)
            assert self.owner[secret] is caller
            known.append(secret)
        return secret, allowed

    def _told_meanwhile(self, caller: Caller, body: dict[str, Any]) -> int:
        """The most tokens of the prompt that others of the same caller have by now."""
        with self._lock:
            told = [
                self.prompts.prompt(family, other)
                for family, secrets in caller.secrets.items()
                for other in secrets
            ]
        told.remove(body["prompt"])
        return max((common_prefix(body["prompt"], other) for other in told), default=0)

    def _ask(self, caller: Caller, body: dict[str, Any], secret: str, allowed: int) -> None:
        url = f"{self.daemon.url}/v1/completions"
        answer = self.daemon.http.post(url, json=body, headers=caller.headers, timeout=300 * SLOWER)
        if "died twice" in answer.text:  # a slow one that was running at two of our kills
            with self._lock:
                self.counts["lost with the worker"] += 1
            return
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["text"]
        cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        if cached > allowed:
            # A later one of the same caller may have been computed first: this one waited, or was
            # computed anew by a worker that found what the one before it had kept.
            allowed = self._told_meanwhile(caller, body)
        assert cached <= allowed, f"{cached} tokens were there, {allowed} could be"
        self._check_text(caller, text)
        whole = body["max_tokens"] > DIGITS
        with self._lock:
            self.counts["answered"] += 1
            self.counts["repeated its secret"] += whole and secret in text
            self.counts["could repeat its secret"] += whole
            self.counts["had a part of the prompt cached"] += cached > 64

    def _leave(self, caller: Caller, body: dict[str, Any]) -> None:
        url, heard = f"{self.daemon.url}/v1/completions", ""
        body = {**body, "stream": True}
        with self.daemon.http.stream(
            "POST", url, json=body, headers=caller.headers, timeout=300 * SLOWER
        ) as answer:
            assert answer.status_code == 200, answer.read()
            for line in islice(answer.iter_lines(), 6):
                heard += line
        self._check_text(caller, heard)
        with self._lock:
            self.counts["left in the middle"] += 1

    def _check_text(self, caller: Caller, text: str) -> None:
        for digits in re.findall(rf"\d{{{DIGITS},}}", text):
            for at in range(len(digits) - DIGITS + 1):
                owner = self.owner.get(digits[at : at + DIGITS], caller)
                assert owner is caller, "the secret of another caller"

    def kill_now_and_then(self) -> None:
        pause = min(KILL_EVERY, SECONDS / 3)
        while self._end - time.monotonic() > pause and not self._failed.wait(pause):
            kill_worker(self.daemon)
            self.counts["deaths of the worker"] += 1


@pytest.fixture
def prompts(default_model_path: Path) -> Prompts:
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(str(default_model_path).encode(), parameters)
    return Prompts(LlamaVocabulary(model))


@pytest.mark.timeout(SECONDS + 600)
def test_no_secret_reaches_another(start: Start, prompts: Prompts) -> None:
    """Neither in a text nor as a number of cached tokens."""
    daemon = start(engine__slots=4, engine__batch=128, limits__max_wait_seconds=300 * SLOWER)
    crowd = Crowd(daemon.wait_ready(), prompts)
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        clients = [pool.submit(crowd.client, number) for number in range(CLIENTS)]
        clients.append(pool.submit(crowd.kill_now_and_then))
        for client in clients:
            client.add_done_callback(crowd.heard)
        wait(clients)
    print(dict(crowd.counts))  # noqa: T201 - the soak is run to see this
    for client in clients:
        client.result()
    counts = crowd.counts
    # Were the model not to repeat secrets, or nothing be shared, nothing would be shown.
    assert counts["repeated its secret"] > counts["could repeat its secret"] / 3
    assert counts["had a part of the prompt cached"] > counts["answered"] / 4
    assert counts["left in the middle"]
    daemon.wait_idle()
    assert daemon.stop() == 0
