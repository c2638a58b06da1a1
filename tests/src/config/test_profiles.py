"""Model profiles: the data, the entry of a name, and the hours of higher prices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.config import PeakHours, profile_for
from src.config.profiles import load_profiles

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("model", "vision", "prices"),
    [
        ("deepseek-v4-pro", False, (0.022, 0.66, 1.98)),
        ("deepseek-v4-pro-preview", False, (0.022, 0.66, 1.98)),
        ("some-flash", True, (0.003, 0.15, 0.60)),
    ],
)
def test_known_models(model: str, vision: bool, prices: tuple[float, ...]) -> None:
    profile = profile_for(model)
    assert (profile.context_window, profile.max_output_tokens) == (1_048_576, 393_216)
    assert profile.vision is vision
    assert (profile.price.cache_hit, profile.price.cache_miss, profile.price.output) == prices


@given(st.text(max_size=30))
def test_every_name_has_a_profile_and_a_strange_one_is_never_cheap(name: str) -> None:
    profile = profile_for(name)
    if profile is load_profiles()[-1]:
        assert all(
            getattr(profile.price, kind) >= getattr(other.price, kind)
            for other in load_profiles()
            for kind in ("cache_hit", "cache_miss", "output")
        )
        assert not profile.vision


@pytest.mark.parametrize("day", range(7))
@pytest.mark.parametrize("hour", range(24))
def test_peak_hours(day: int, hour: int) -> None:
    """Peak is Monday to Friday, 01-04 and 06-10 UTC, half-open, in every time zone."""
    moment = MONDAY + timedelta(days=day, hours=hour, minutes=59)
    peak = day < 5 and (1 <= hour < 4 or 6 <= hour < 10)
    factor = 2.0 if peak else 1.0
    assert profile_for("deepseek-v4-pro").peak.factor_at(moment) == factor
    assert (
        profile_for("deepseek-v4-pro").peak.factor_at(moment.astimezone(timezone(timedelta(hours=9))))
        == factor
    )


def test_without_peak_hours_prices_stay() -> None:
    assert PeakHours(factor=1.0).factor_at(MONDAY + timedelta(hours=2)) == 1.0
