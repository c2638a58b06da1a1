"""Type checks for values that were read from JSON or TOML."""

from __future__ import annotations

from typing import TypeGuard


def is_dict(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a value is a JSON object or a TOML table, whose keys are always text."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Return whether a value is an array."""
    return isinstance(value, list)
