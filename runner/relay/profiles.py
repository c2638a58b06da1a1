"""Facts about models: sizes, prices and token overheads, from the agent's src/config/models.toml.

The runner does not import the agent, so it reads the same file with classes of its own.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PROFILES_FILE = Path(__file__).resolve().parents[2] / "src" / "config" / "models.toml"


class Price(BaseModel):
    """US dollars per million tokens, off-peak."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_hit: float = Field(ge=0)
    cache_miss: float = Field(ge=0)
    output: float = Field(ge=0)


class PeakHours(BaseModel):
    """Times of higher prices: weekdays (0 is Monday) and half-open hour ranges, in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(1.0, ge=1)
    weekdays: tuple[int, ...] = ()
    hours: tuple[tuple[int, int], ...] = ()

    def factor_at(self, moment: datetime) -> float:
        """Return the price factor at an aware moment."""
        utc = moment.astimezone(UTC)
        peak = utc.weekday() in self.weekdays and any(start <= utc.hour < end for start, end in self.hours)
        return self.factor if peak else 1.0


class ChatTemplate(BaseModel):
    """Tokens that the provider's chat template adds around each message, tool call and image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message_tokens: int = Field(ge=0)
    call_tokens: int = Field(ge=0)
    image_tokens: int = Field(ge=0)


class ModelProfile(BaseModel):
    """One model, or several that share name patterns. Sizes are tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: tuple[str, ...]
    context_window: int = Field(gt=0)
    max_output_tokens: int = Field(gt=0)
    vision: bool = False
    price: Price
    peak: PeakHours
    template: ChatTemplate

    def cost(self, *, hit: int = 0, miss: int = 0, output: int = 0, at: datetime) -> float:
        """Return the US dollars that these tokens cost at an aware moment."""
        price = self.price
        dollars = (hit * price.cache_hit + miss * price.cache_miss + output * price.output) / 1_000_000
        return dollars * self.peak.factor_at(at)


@cache
def _profiles() -> tuple[ModelProfile, ...]:
    data: dict[str, Any] = tomllib.loads(PROFILES_FILE.read_text(encoding="utf-8"))
    common = {"peak": data["peak"], "template": data["template"]}
    return tuple(ModelProfile.model_validate({**common, **entry}) for entry in data["model"])


def profile_for(model: str) -> ModelProfile:
    """Return the first profile with a matching pattern. The last one matches every name."""
    profiles = _profiles()
    matching = (p for p in profiles if any(fnmatchcase(model, pattern) for pattern in p.match))
    return next(matching, profiles[-1])


def chat_template() -> ChatTemplate:
    """Return the overheads, which are the same for every model."""
    return _profiles()[-1].template
