"""Checks for values from JSON and TOML: a value is `object` until one of these has narrowed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

JsonObject = Mapping[str, object]


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a value is a JSON object or a TOML table, whose keys are always strings."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Return whether a value is a list."""
    return isinstance(value, list)


def as_object(value: object) -> JsonObject:
    """Return the value if it is an object, else an empty object."""
    return value if is_object(value) else {}


def as_text(value: object) -> str:
    """Return the value if it is a string, else an empty string."""
    return value if isinstance(value, str) else ""


def objects_in(value: object) -> list[JsonObject]:
    """Return the objects in a list, or nothing if the value is not a list."""
    return [item for item in value if is_object(item)] if is_list(value) else []
