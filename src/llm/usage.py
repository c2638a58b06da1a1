"""Tokens and cost: counting tokens, the usage of a call and its price, and the totals of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

from src.config import ModelProfile, profile_for

_MILLION = 1_000_000


class TokenCounter(Protocol):
    """Counts tokens of texts, exactly with DeepSeek V4's vocabulary or by a calibrated estimate."""

    exact: bool

    def count(self, text: str) -> int:
        """Return the number of tokens. Special tokens in the text are counted as plain text."""
        ...

    def head(self, text: str, tokens: int) -> str:
        """Return the longest prefix, in whole characters, of at most this many tokens."""
        ...

    def tail(self, text: str, tokens: int) -> str:
        """Return the longest suffix, in whole characters, of at most this many tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, or the sum over several calls.

    `prompt_tokens` are cache hits and misses together; `reasoning_tokens` are part of
    `completion_tokens`. `estimated` marks counts of our own, used where the server reported no
    usage.
    """

    prompt_tokens: int = 0
    cache_hit_tokens: int = 0
    cache_miss_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cache_hit_tokens + other.cache_hit_tokens,
            self.cache_miss_tokens + other.cache_miss_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )

    @staticmethod
    def estimate(prompt_tokens: int, completion_tokens: int) -> Usage:
        """Return estimated usage, with the whole prompt at the highest price, as cache misses."""
        return Usage(prompt_tokens, 0, prompt_tokens, completion_tokens, estimated=True)

    @staticmethod
    def from_api(data: object) -> Usage | None:
        """Return the usage in the API's `usage` object, or None if it is missing or incomplete.

        Cache hits are read from `prompt_cache_hit_tokens`, else from
        `prompt_tokens_details.cached_tokens`. All other prompt tokens count as misses.
        """
        if not isinstance(data, Mapping):
            return None
        fields = cast("Mapping[str, Any]", data)
        hit = _count(fields.get("prompt_cache_hit_tokens"))
        if hit is None:
            hit = _count(_detail(fields, "prompt_tokens_details", "cached_tokens")) or 0
        miss = _count(fields.get("prompt_cache_miss_tokens")) or 0
        prompt = max(_count(fields.get("prompt_tokens")) or 0, hit + miss)
        completion = _count(fields.get("completion_tokens"))
        if prompt == 0 or completion is None:
            return None
        reasoning = _count(_detail(fields, "completion_tokens_details", "reasoning_tokens")) or 0
        return Usage(prompt, hit, prompt - hit, completion, min(reasoning, completion))


def cost_of(usage: Usage, profile: ModelProfile, *moments: datetime) -> float:
    """Return the US dollars for the usage at the most expensive of the moments.

    It is not documented whether a call that crosses into the peak hours is billed by its start or
    by its end. Pass both, and the result is never below the bill.
    """
    price = profile.price
    dollars = (
        usage.cache_hit_tokens * price.cache_hit
        + usage.cache_miss_tokens * price.cache_miss
        + usage.completion_tokens * price.output
    ) / _MILLION
    return dollars * max((profile.peak.factor_at(moment) for moment in moments), default=1.0)


def billing_profile(requested: str, answered: str) -> ModelProfile:
    """Return the profile that sets the price of a call.

    That is the profile of the model that answered. If its name is unknown, it is the profile of the
    requested model, since a server may answer under an internal name.
    """
    profile = profile_for(answered or requested)
    return profile_for(requested) if "*" in profile.match else profile


@dataclass(slots=True)
class UsageTotals:
    """Usage and cost of a run: `calls` returned an answer, `failed` ones may have used tokens."""

    calls: int = 0
    failed: int = 0
    usage: Usage = Usage()
    cost_usd: float = 0.0

    def record(self, usage: Usage, cost_usd: float, *, failed: bool = False) -> None:
        """Add one call. `failed` marks a call that broke off after it had used tokens."""
        self.calls += not failed
        self.failed += failed
        self.usage += usage
        self.cost_usd += cost_usd


def _count(value: object) -> int | None:
    """Return a token count, or None if the value is not a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != value // 1:
        return None
    return int(value)


def _detail(fields: Mapping[str, Any], outer: str, inner: str) -> object:
    details = fields.get(outer)
    return cast("Mapping[str, Any]", details).get(inner) if isinstance(details, Mapping) else None
