"""Figures as people read them, the same in tables and on pages."""

from __future__ import annotations


def shown_seconds(seconds: float | None) -> str:
    """`0.40 s`, `12 s`, `3 m 05 s`, `2 h 10 m`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
