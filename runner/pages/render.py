"""Rendering the templates, with autoescape, and formatting their values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runner.pages.text import readable
from runner.pages.views import TrialRow
from runner.results import ModelUse, format_seconds

# By outcome: a sign and a label.
_OUTCOME_LABELS = {
    "passed": ("✓", "passed"),
    "failed": ("✗", "not passed"),
    "errored": ("!", "errored"),
    "cancelled": ("⊘", "cancelled"),
    "running": ("…", "running"),
    "waiting": ("·", "waiting"),
}


class _Templates(Environment):
    """The templates of this package. Declares the types of what jinja2 leaves untyped."""

    filters: dict[str, Callable[..., object]]
    globals: dict[str, object]


@cache
def _templates() -> _Templates:
    templates = _Templates(
        loader=PackageLoader("runner.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "seconds": format_seconds,
        "usd": _optional("${:,.4f}"),
        "count": _optional("{:,}"),
        "rate": _optional("{:.0%}"),
        "reward": _optional("{:g}"),
        "bytes": format_bytes,
        "time": _optional("{:%Y-%m-%d %H:%M:%S}"),
        "clean": readable,
        "svg": Markup,  # from plots.py, which removes active content
    }
    templates.globals |= {"outcome_labels": _OUTCOME_LABELS, "cache_rate": cache_rate, "reason": reason}
    return templates


def _optional(template: str) -> Callable[[float | datetime | None], str]:
    """Return a filter that formats a value, and shows None as a dash."""
    return lambda value: "–" if value is None else template.format(value)


def render(template: str, **values: object) -> str:
    """Render a page. Lone surrogates, which UTF-8 cannot carry, become question marks."""
    text = _templates().get_template(template).render(**values)
    return text.encode("utf-8", "replace").decode("utf-8")


@cache
def static(name: str) -> str:
    """Return a static file of this package."""
    return (files("runner.pages") / "static" / name).read_text(encoding="utf-8")


def cache_rate(use: ModelUse | None) -> float | None:
    """Return the share of prompt tokens that came from the provider's cache."""
    return use.cache_hit_tokens / use.prompt_tokens if use is not None and use.prompt_tokens else None


def reason(row: TrialRow) -> str:
    """Say in a few words why a trial did not pass, or what is unusual about it."""
    record = row.record
    if record is None:
        return row.phase
    parts = ["timed out"] if record.timed_out else []
    if record.error:
        parts.append(record.error)
    parts += [mark.replace("_", " ") for mark in record.marks]
    return "; ".join(parts)


def format_bytes(value: int) -> str:
    """Format a size for people."""
    if value < 1000:
        return f"{value} bytes"
    size = value / 1000
    for unit in ("KB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
