"""What each run may spend and has spent: tokens of access, budgets, rates."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runner.relay.meter import CallUsage
from runner.relay.wire import ApiError

TOKEN_PREFIX = "capstan-"
_WINDOW_SEC = 60.0


@dataclass(frozen=True, slots=True)
class RunUsage:
    """What a run has used so far. Money is US dollars.

    `prompt_tokens` include the cached ones. `calls` were answered with status 200, `errors` were
    not, or broke off. `estimated` is true where an answer did not state its usage: the relay counted it.
    """

    name: str
    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cache_hit_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float = 0.0
    models: tuple[str, ...] = ()
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class RunAccount:
    """A run's access to the relay: `token` is the key that its agent is given, `base_url` the address."""

    id: str
    name: str
    token: str = field(repr=False)
    base_url: str
    cost_limit_usd: float | None


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How many requests one run may have in a minute (None: any number) and at once."""

    per_minute: int | None = 600
    at_once: int = 64


class RunBudget:
    """The budget of one run: what it may spend and has spent, and how often it may call.

    A call reserves what it may cost before it goes out. A call that the reservations of others would take
    over the limit waits for them; one that finds the money spent gets 402. So calls side by side cannot
    spend the same dollar, and the bill passes the limit by no more than the last single call.
    """

    def __init__(
        self, account: RunAccount, limits: RunLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.account = account
        self._limits = limits
        self._clock = clock
        self._running = 0
        self._recent: deque[float] = deque()
        self._reserved: dict[int, float] = {}
        self._next = 0
        self._settled = asyncio.Condition()
        self._usage = RunUsage(account.name)

    @property
    def usage(self) -> RunUsage:
        return self._usage

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Counts a request while it lasts.

        Raises ApiError 429 with Retry-After where there are too many at once or were too many in a minute.
        """
        if self._running >= self._limits.at_once:
            message = f"the relay takes {self._limits.at_once} requests at once from one run"
            raise ApiError(429, message, code="relay_rate", retry_after=1.0)
        self._check_rate()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _check_rate(self) -> None:
        limit = self._limits.per_minute
        if limit is None:
            return
        now = self._clock()
        while self._recent and now - self._recent[0] >= _WINDOW_SEC:
            self._recent.popleft()
        if len(self._recent) >= limit:
            wait = max(1.0, round(_WINDOW_SEC - (now - self._recent[0]) + 0.5))
            message = f"the relay takes {limit} requests a minute from one run"
            raise ApiError(429, message, code="relay_rate", retry_after=wait)
        self._recent.append(now)

    async def reserve(self, worst_usd: float) -> int:
        """Admits a call that may cost so much, and gives its reservation's number. Raises ApiError 402."""
        async with self._settled:
            await self._settled.wait_for(lambda: self._exhausted or self._admits(worst_usd))
            self.check_budget()
            number, self._next = self._next, self._next + 1
            self._reserved[number] = worst_usd
            return number

    def check_budget(self) -> None:
        """Raises ApiError 402 where the limit is reached."""
        if self._exhausted:
            raise self.spent_error()

    def spent_error(self) -> ApiError:
        """The 402 of a run that has no money left."""
        return ApiError(
            402,
            f"Insufficient Balance: this run has spent ${self._usage.cost_usd:.4f} of its limit of "
            f"${self.account.cost_limit_usd or 0.0:.4f} (LLM_COST_LIMIT)",
            code="relay_cost_limit",
        )

    async def settled(self) -> None:
        """Waits until no call is under way."""
        async with self._settled:
            await self._settled.wait_for(lambda: not self._reserved)

    def would_end(self, running_usd: float) -> bool:
        """Whether a call under way that has cost so much already takes the run to its limit."""
        limit = self.account.cost_limit_usd
        return limit is not None and self._usage.cost_usd + running_usd >= limit

    async def settle(
        self, number: int, usage: CallUsage | None, cost_usd: float, model: str | None, *, failed: bool
    ) -> None:
        """Ends a reservation and books what the call really used (None: nothing)."""
        used = usage or CallUsage()
        old = self._usage
        models = old.models if model is None or model in old.models else (*old.models, model)
        self._usage = RunUsage(
            name=old.name,
            calls=old.calls + (not failed),
            errors=old.errors + failed,
            prompt_tokens=old.prompt_tokens + used.prompt_tokens,
            cache_hit_tokens=old.cache_hit_tokens + used.cache_hit_tokens,
            completion_tokens=old.completion_tokens + used.completion_tokens,
            reasoning_tokens=old.reasoning_tokens + used.reasoning_tokens,
            cost_usd=old.cost_usd + cost_usd,
            models=models,
            estimated=old.estimated or used.estimated,
        )
        self._reserved.pop(number, None)
        async with self._settled:
            self._settled.notify_all()

    def refused(self) -> None:
        """Books a request that the relay itself refused."""
        old = self._usage
        self._usage = RunUsage(**{**_fields(old), "errors": old.errors + 1})

    @property
    def _exhausted(self) -> bool:
        limit = self.account.cost_limit_usd
        return limit is not None and self._usage.cost_usd >= limit

    def _admits(self, worst_usd: float) -> bool:
        limit = self.account.cost_limit_usd
        if limit is None or not self._reserved:
            return True
        return self._usage.cost_usd + sum(self._reserved.values()) + worst_usd <= limit


def _fields(usage: RunUsage) -> dict[str, object]:
    return {name: getattr(usage, name) for name in RunUsage.__slots__}


class Accounts:
    """All open runs, by token."""

    def __init__(self, limits: RunLimits) -> None:
        self._limits = limits
        self._open: dict[str, RunBudget] = {}
        self._number = 0

    def open(self, name: str, base_url: str, cost_limit_usd: float | None) -> RunAccount:
        self._number += 1
        token = TOKEN_PREFIX + secrets.token_hex(20)
        account = RunAccount(f"{self._number}-{name}", name, token, base_url, cost_limit_usd)
        self._open[token] = RunBudget(account, self._limits)
        return account

    def find(self, token: str) -> RunBudget | None:
        return self._open.get(token)

    def close(self, token: str) -> RunBudget:
        return self._open.pop(token)
