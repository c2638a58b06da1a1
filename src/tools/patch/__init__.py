"""Patches in two formats: parsing, finding their lines, applying them in memory. Pure functions."""

from src.tools.patch.apply import Change, Outcome, apply_patch
from src.tools.patch.model import Patch, PatchError
from src.tools.patch.parser import parse_patch

__all__ = ["Change", "Outcome", "Patch", "PatchError", "apply_patch", "parse_patch"]
