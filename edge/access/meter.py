"""How much each key asks for: requests a minute, requests at once, tokens a day.

What was used is counted whether or not it is bounded. Owned by the event loop.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge.access.key import Key
from edge.errors import RateLimited

DAY = 86_400.0


@dataclass
class Account:
    """What is known of one key. day: UTC's, that the counts are of. allowance: requests that it may
    make at once, which the minute's rate fills up again."""

    day: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    running: int = 0
    allowance: float = math.inf
    filled_at: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


CALLER = "key "
"""Before a key's name, it is the `caller` of its requests."""


def caller_of(key: Key) -> str:
    return f"{CALLER}{key.name}"


def key_of(caller: str) -> str | None:
    """The key's name, where a caller has one."""
    return caller.removeprefix(CALLER) if caller.startswith(CALLER) else None


class Meter:
    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    @contextmanager
    def admitted(self, key: Key) -> Iterator[Account]:
        """Count a request for as long as it runs. Raises `RateLimited` where it is one too many."""
        account = self.account(key.name)
        self._check(key, account)
        account.requests += 1
        account.running += 1
        try:
            yield account
        finally:
            account.running -= 1

    def account(self, name: str) -> Account:
        """Of this day."""
        account = self._accounts.setdefault(name, Account())
        today = day_of(time.time())
        if account.day != today:
            account.day = today
            account.requests = account.prompt_tokens = account.completion_tokens = 0
        return account

    def spent(self, name: str, prompt_tokens: int, completion_tokens: int) -> None:
        account = self.account(name)
        account.prompt_tokens += prompt_tokens
        account.completion_tokens += completion_tokens

    def _check(self, key: Key, account: Account) -> None:
        quota = key.quota
        if quota.tokens_per_day is not None and account.tokens >= quota.tokens_per_day:
            raise RateLimited(
                f"the key {key.name!r} has used its {quota.tokens_per_day} tokens of this day",
                retry_after=DAY - time.time() % DAY,
            )
        if quota.concurrent is not None and account.running >= quota.concurrent:
            raise RateLimited(
                f"the key {key.name!r} has {account.running} requests running, which is its limit",
                retry_after=1.0,
            )
        if quota.requests_per_minute is not None:
            _take(key.name, account, quota.requests_per_minute)


def _take(name: str, account: Account, rate: int) -> None:
    """A token bucket of one minute's requests."""
    now = time.monotonic()
    refill = (now - account.filled_at) * rate / 60.0
    account.allowance = min(float(rate), account.allowance + refill)
    account.filled_at = now
    if account.allowance < 1.0:
        raise RateLimited(
            f"the key {name!r} may ask {rate} times a minute",
            retry_after=(1.0 - account.allowance) * 60.0 / rate,
        )
    account.allowance -= 1.0


def day_of(seconds: float) -> str:
    """`2026-11-23`, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d")
