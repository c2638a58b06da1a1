"""The prompts of the loop: Markdown files in this folder with placeholders for string.Template."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent


@cache
def _template(name: str) -> Template:
    return Template((_FOLDER / f"{name}.md").read_text(encoding="utf-8").rstrip("\n"))


def prompt(name: str, **values: object) -> str:
    """Return `name`.md with its `$placeholders` filled in. Raises KeyError if one has no value."""
    return _template(name).substitute({key: str(value) for key, value in values.items()})
