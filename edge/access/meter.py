"""How much each key asks for: requests a minute, requests at once, tokens a day.

What was used is counted whether or not it is bounded, and is in the ledger some seconds later: see
`edge/store/usage.py` for what a crash takes. Owned by the event loop.
"""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge.access.key import Key
from edge.errors import EdgeError, RateLimited
from edge.loops import Loop
from edge.store.usage import DayUsage, UsageTable

logger = logging.getLogger(__name__)

DAY = 86_400.0

DAYS = 31
"""Before this one that are kept."""

SAVE_SECONDS = 2.0
"""How much of what was used a kill may take."""


@dataclass
class Account:
    """What is known of one key. day: UTC's, that the counts are of. allowance: requests that it may
    make at once, which the minute's rate fills up again."""

    day: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    energy_joules: float | None = None
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
    """`run` it in a task, once it was `restore`d. table: where what was used is kept, None to
    forget it. Its methods that are coroutines raise `StoreFull` and `StoreBroken`."""

    def __init__(self, table: UsageTable | None = None) -> None:
        self._table = table
        self._accounts: dict[str, Account] = {}
        self._unsaved: dict[tuple[str, str], DayUsage] = {}
        self._loop = Loop("usage", self._save, tick=SAVE_SECONDS)

    async def restore(self) -> None:
        """Go on where an earlier process has stopped."""
        if self._table is None:
            return
        for row in await self._table.of_day(day_of(time.time())):
            account = self.account(row.name)
            account.requests += row.requests
            account.prompt_tokens += row.prompt_tokens
            account.completion_tokens += row.completion_tokens
            account.energy_joules = row.energy_joules

    async def run(self) -> None:
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()
        try:
            await self._save()
        except EdgeError as error:
            logger.error("what was used lately is not on disk: %s", error.message)

    @contextmanager
    def admitted(self, key: Key) -> Iterator[Account]:
        """Count a request for as long as it runs. Raises `RateLimited` where it is one too many."""
        account = self.account(key.name)
        self._check(key, account)
        account.requests += 1
        account.running += 1
        self._note(key.name, account)
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
            account.energy_joules = None
        return account

    async def days(self, name: str) -> Sequence[DayUsage]:
        """What a key has used on the days before this one that are kept, the latest first."""
        if self._table is None:
            return []
        today = self.account(name).day
        rows = {row.day: row for row in await self._table.of_key(name)}
        rows |= {row.day: row for row in self._unsaved.values() if row.name == name}
        return [rows[day] for day in sorted(rows, reverse=True) if day < today][:DAYS]

    def spent(self, name: str, prompt_tokens: int, completion_tokens: int) -> None:
        account = self.account(name)
        account.prompt_tokens += prompt_tokens
        account.completion_tokens += completion_tokens
        self._note(name, account)

    def used(self, name: str, joules: float) -> None:
        """Of energy, some time after the tokens that it was used for."""
        account = self.account(name)
        account.energy_joules = (account.energy_joules or 0.0) + joules
        self._note(name, account)

    def exhausted(self, key: Key) -> bool:
        """Whether it has used all tokens of this day."""
        bound = key.quota.tokens_per_day
        return bound is not None and self.account(key.name).tokens >= bound

    def _note(self, name: str, account: Account) -> None:
        used = (account.requests, account.prompt_tokens, account.completion_tokens)
        joules = account.energy_joules
        self._unsaved[account.day, name] = DayUsage(account.day, name, *used, joules)

    async def _save(self) -> None:
        if self._table is None or not self._unsaved:
            return
        rows = dict(self._unsaved)
        await self._table.write(list(rows.values()), day_of(time.time() - DAYS * DAY))
        for where, row in rows.items():
            if self._unsaved.get(where) is row:  # nothing came to it meanwhile
                del self._unsaved[where]

    def _check(self, key: Key, account: Account) -> None:
        quota = key.quota
        if self.exhausted(key):
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
