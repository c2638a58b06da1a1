"""POSIX sh scripts that tools run through `Workspace.query`."""

from functools import cache
from pathlib import Path


@cache
def script(name: str) -> str:
    """Return the text of the script with this name."""
    return Path(__file__).with_name(f"{name}.sh").read_text(encoding="utf-8")
