"""Templates: autoescape on, nothing undefined, and numbers as people read them."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runner.pages.text import readable
from runner.pages.views import TrialRow
from runner.results import ModelUse, format_seconds

_WORDS = {
    "passed": ("✓", "passed"),
    "failed": ("✗", "not passed"),
    "errored": ("!", "errored"),
    "cancelled": ("⊘", "cancelled"),
    "running": ("…", "running"),
    "waiting": ("·", "waiting"),
}


@cache
def environment() -> Environment:
    """The templates of this package."""
    env = Environment(
        loader=PackageLoader("runner.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "seconds": format_seconds,
        "usd": lambda value: "–" if value is None else f"${value:,.4f}",
        "count": lambda value: "–" if value is None else f"{value:,}",
        "rate": lambda value: "–" if value is None else f"{value:.0%}",
        "reward": lambda value: "–" if value is None else f"{value:g}",
        "bytes": shown_bytes,
        "time": shown_time,
        "clean": readable,
        "svg": Markup,  # plots.py made it, and took out what is not a drawing
    }
    env.globals |= {"outcome_words": _WORDS, "cache_rate": cache_rate, "why": why}
    return env


def render(template: str, **values: Any) -> str:
    """A page. Lone surrogates, which no encoding of the web can carry, become question marks."""
    text = environment().get_template(template).render(**values)
    return text.encode("utf-8", "replace").decode("utf-8")


@cache
def static(name: str) -> str:
    """A file of the package that a browser gets."""
    return (files("runner.pages") / "static" / name).read_text(encoding="utf-8")


def cache_rate(use: ModelUse | None) -> float | None:
    """The share of prompt tokens that came from the provider's cache."""
    return use.cache_hit_tokens / use.prompt_tokens if use is not None and use.prompt_tokens else None


def why(row: TrialRow) -> str:
    """In a few words why a trial did not pass, or what is odd about it."""
    record = row.record
    if record is None:
        return row.phase
    parts = ["timed out"] if record.timed_out else []
    if record.error:
        parts.append(record.error)
    parts += [mark.replace("_", " ") for mark in record.marks]
    return "; ".join(parts)


def shown_bytes(value: int) -> str:
    for unit in ("bytes", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value = value / 1000  # type: ignore[assignment]
    return f"{value:.1f} GB"


def shown_time(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"
