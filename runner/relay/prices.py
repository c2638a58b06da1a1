"""Sizes and prices of models, from prices.toml beside this file."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

PRICES_FILE = Path(__file__).with_name("prices.toml")


class Price(BaseModel):
    """US dollars per million tokens, off-peak."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_hit: float = Field(ge=0)
    cache_miss: float = Field(ge=0)
    output: float = Field(ge=0)


class Peak(BaseModel):
    """The times at which prices are multiplied by `factor`.

    Attributes:
        weekdays: 0 is Monday, in UTC.
        hours: Ranges in UTC, without their last hour.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(1.0, ge=1)
    weekdays: tuple[int, ...] = ()
    hours: tuple[tuple[int, int], ...] = ()

    def factor_at(self, moment: datetime) -> float:
        """Return the factor on prices at a moment."""
        utc = moment.astimezone(UTC)
        inside = utc.weekday() in self.weekdays and any(start <= utc.hour < end for start, end in self.hours)
        return self.factor if inside else 1.0


class ModelCard(BaseModel):
    """One model, or several that share name patterns. Sizes are tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    match: tuple[str, ...]
    context_window: int = Field(gt=0)
    max_output_tokens: int = Field(gt=0)
    vision: bool = False
    price: Price


class PriceTable(BaseModel):
    """The known models. The last entry stands for every unknown model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak: Peak = Peak(factor=1.0)
    model: tuple[ModelCard, ...] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path = PRICES_FILE) -> Self:
        """Read a price table from a TOML file."""
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))

    def card(self, model: str) -> ModelCard:
        """Return the entry of a model: the first with a matching pattern."""
        for card in self.model:
            if any(fnmatchcase(model, pattern) for pattern in card.match):
                return card
        return self.model[-1]

    def cost(self, model: str, *, hit: int, miss: int, output: int, at: datetime) -> float:
        """Return the US dollars that these tokens cost at a moment."""
        price = self.card(model).price
        dollars = (hit * price.cache_hit + miss * price.cache_miss + output * price.output) / 1_000_000
        return dollars * self.peak.factor_at(at)


@cache
def default_prices() -> PriceTable:
    """Return the table of prices.toml."""
    return PriceTable.load()
